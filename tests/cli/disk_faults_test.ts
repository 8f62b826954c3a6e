/**
 * `serve` over a real engine whose disk fills up or whose files are damaged while streams run: the
 * request that needs the disk gets an error event, the others go on, and no damaged block is served.
 */
import { assert } from "std-testing";
import {
  completionChunk,
  eventData,
  eventually,
  failure,
  only,
  post,
  postCompletion,
  textOf,
} from "../server/_wire.ts";
import { startHurtServer } from "./_hurt_server.ts";

/** A start takes a second or two; a machine with other work takes longer. */
const START_MS = 60_000;
const ARGS = ["--context", "512", "--prefill-chunk", "32", "--log-format", "json"];

const ids = (length: number, factor: number) =>
  Array.from({ length }, (_, index) => 3 + (index * factor) % 300);
/** Fits the device. */
const OTHER = { prompt: ids(20, 11), temperature: 0, ignore_eos: true, max_tokens: 230 };
/** Does not: a block of it goes to disk every 32 tokens. */
const VICTIM = {
  prompt: ids(280, 7),
  temperature: 0,
  ignore_eos: true,
  max_tokens: 120,
  kv: { policy: "oracle", sinks: 8, window: 16, budget: 16, dense_layers: 0 },
};

/** Streams and takes the first chunk; what it gives are all events. */
async function openStream(url: string, body: object) {
  const response = await post({ url }, "/v1/completions", { ...body, stream: true });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = (await reader.read()).value ?? "";
  return async () => {
    for (let next = await reader.read(); !next.done; next = await reader.read()) text += next.value;
    const data = eventData(text);
    assert.equal(data.pop(), "[DONE]");
    return data;
  };
}

const textIn = (data: readonly string[]) =>
  textOf(data.map((item) => completionChunk.parse(JSON.parse(item))));
const textFor = async (url: string, body: object) =>
  only((await postCompletion({ url }, body)).choices).text;

/** Files of rows below a folder. */
function rowFiles(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }) => {
    const path = `${folder}/${name}`;
    return isDirectory ? rowFiles(path) : name.endsWith(".kv") ? [path] : [];
  });
}

/**
 * Turns bits over behind the header, in every head's rows.
 *
 * @returns Whether it was still there: sequences come and go meanwhile, and their files with them.
 */
function damage(path: string): boolean {
  let file;
  try {
    file = Deno.openSync(path, { read: true, write: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
  using opened = file;
  for (let at = 128 + 77; at < opened.statSync().size; at += 512) {
    const byte = new Uint8Array(1);
    opened.seekSync(at, Deno.SeekMode.Start);
    opened.readSync(byte);
    byte[0]! ^= 4;
    opened.seekSync(at, Deno.SeekMode.Start);
    opened.writeSync(byte);
  }
  return true;
}

/** Lines of a log, each of which must be JSON. */
const linesOf = (log: string) =>
  log.trimEnd().split("\n").map((line) => JSON.parse(line) as { level: string; message: string });

Deno.test("--kv-disk full or damaged while streams run: an error event for the one who needs it", async () => {
  const disk = await Deno.makeTempDir();
  using server = startHurtServer(
    [...ARGS, "--kv-device", "280K", "--kv-host", "0", "--kv-disk", disk, "--no-prefix-cache"],
  );
  const url = await server.url;
  const [other, victim] = [await textFor(url, OTHER), await textFor(url, VICTIM)];
  const damageAll = () => {
    // What the victim does without them shows that they were its.
    const damaged = rowFiles(disk).filter(damage);
    assert.ok(damaged.length > 0, "no rows lie on disk");
  };
  const faults = [
    ["out_of_memory", /--kv-disk-size/, () => server.hurt("disk_full")],
    ["internal", /cannot be read back/, damageAll],
  ] as const;
  for (const [code, reason, hurt] of faults) {
    const beside = await openStream(url, OTHER);
    const needing = await openStream(url, VICTIM);
    hurt();
    const data = await needing();
    const { error } = failure.parse(JSON.parse(data.pop() ?? ""));
    assert.equal(error.code, code);
    assert.match(error.message, reason);
    // No directory of this machine is told.
    assert.ok(!error.message.includes(disk));
    // What came before the fault was right.
    assert.ok(victim.startsWith(textIn(data)));
    assert.equal(textIn(await beside()), other);
    assert.equal((await (await fetch(`${url}/health`)).json()).status, "ok");
    server.hurt("disk_free");
    assert.equal(await textFor(url, VICTIM), victim);
  }
  await eventually(() => rowFiles(disk).length === 0, 2000);
  server.io.interrupt("SIGTERM");
  assert.equal(await server.code, 0);
  linesOf(server.io.err);
  await Deno.remove(disk, { recursive: true });
});

Deno.test("--prefix-dir full or damaged while streams run: right answers, a warning in the log", async () => {
  const folder = await Deno.makeTempDir();
  using server = startHurtServer([...ARGS, "--prefix-dir", folder]);
  const url = await server.url;
  const ask = async (body: object) => {
    const { choices, usage } = await postCompletion({ url }, body);
    return { text: only(choices).text, cached: usage.prompt_tokens_details.cached_tokens };
  };
  const asked = { prompt: ids(150, 7), temperature: 0, max_tokens: 16 };
  const fresh = { prompt: ids(150, 13), temperature: 0, max_tokens: 16 };
  const first = await ask(asked);
  assert.equal(first.cached, 0);
  // Whole blocks of 32, of prompt and answer.
  await eventually(() => rowFiles(folder).length === 5, 10_000);

  // Full: whoever comes is served, nothing is left half written, and it is saved later.
  server.hurt("disk_full");
  const beside = await openStream(url, OTHER);
  const { text } = await ask(fresh);
  const warnings = () => linesOf(server.io.err).filter(({ level }) => level === "warn");
  await eventually(() => warnings().length === 1, 10_000);
  assert.match(warnings()[0]!.message, /^prefix blocks cannot be saved in .*No space left/);
  const undisturbed = textIn(await beside());
  assert.equal(rowFiles(folder).length, 5);
  // The next block may just be tried: its file is there until the disk turns out to be full.
  const halves = () => [...Deno.readDirSync(folder)].filter(({ name }) => !name.endsWith(".kv"));
  await eventually(() => halves().length === 0, 2000);
  server.hurt("disk_free");
  assert.deepEqual(await ask(fresh), { text, cached: 128 });

  // Damaged: a new engine has nothing but the files.
  server.hurt("die");
  const status = async () => {
    const response = await fetch(`${url}/ready`);
    await response.body?.cancel();
    return response.status;
  };
  await eventually(async () => await status() !== 200, 5000);
  rowFiles(folder).forEach(damage);
  await eventually(async () => await status() === 200, START_MS);
  const running = await openStream(url, OTHER);
  // Each request finds the next bad block, and puts a good one in its place.
  for (const cached of [0, 32, 64, 96, 128]) {
    assert.deepEqual(await ask(asked), { text: first.text, cached });
  }
  assert.equal(textIn(await running()), undisturbed);
  const ignored = warnings().filter(({ message }) =>
    /saved prefix block .* is ignored/.test(message)
  );
  assert.equal(ignored.length, 4);
  server.io.interrupt("SIGTERM");
  assert.equal(await server.code, 0);
  await Deno.remove(folder, { recursive: true });
});
