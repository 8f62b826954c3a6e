import { assert } from "std-testing";
import { openTextSide } from "../../src/cli/text_side.ts";
import { startEngine } from "../../src/engine/start.ts";
import { DEFAULT_CACHE, DEFAULT_TIERS, type EngineOptions } from "../../src/engine/types.ts";
import { openFakeServer, openServer } from "./_server.ts";
import { eventually, post, postCompletion, postFailing } from "./_wire.ts";

const MODEL = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;
const NUM_SLOTS = 2;

/** A server over a real engine that saves conversations. */
async function openReal(slotDir: string | null, options: Partial<EngineOptions> = {}) {
  const engine = await startEngine({
    modelPath: MODEL,
    contextLength: 512,
    maxSequences: NUM_SLOTS,
    kvType: "f32",
    prefillChunk: 32,
    kernelOverrides: {},
    ...DEFAULT_CACHE,
    tiers: { ...DEFAULT_TIERS, slotDir },
    ...options,
  });
  const side = await openTextSide(MODEL, "chat");
  return openServer({ engine, ...side }, { operator: { slots: true } });
}

type Target = { readonly url: string };
const act = (server: Target, slot: number | string, action: string, body: unknown = {}) =>
  post(server, `/slots/${slot}?action=${action}`, body);
const acted = async (server: Target, slot: number, action: string, filename?: string) => {
  const response = await act(server, slot, action, filename === undefined ? {} : { filename });
  assert.equal(response.status, 200, await response.clone().text());
  return await response.json();
};
const slotsOf = async ({ url }: Target) => await (await fetch(`${url}/slots`)).json();

const body = {
  prompt: Array.from({ length: 100 }, (_, i) => (i * 7) % 50),
  max_tokens: 40,
  ignore_eos: true,
  temperature: 0,
};
const answered = async (server: Target, more: object = {}) => {
  const { choices, usage, id } = await postCompletion(server, { ...body, ...more });
  return { text: choices[0]!.text, cached: usage.prompt_tokens_details.cached_tokens, id };
};

Deno.test("a conversation is saved, erased, restored, and outlives the process", async () => {
  const dir = await Deno.makeTempDir();
  const first = await answeredAndSaved(dir);
  await using server = await openReal(dir);
  const restored = await acted(server, 1, "restore", "talk");
  assert.equal(restored.n_restored, first.n_saved);
  assert.equal(restored.n_read, first.n_written);
  assert.ok(restored.timings.restore_ms > 0);
  const again = await answered(server);
  assert.deepEqual([again.text, again.cached], [first.text, 96]);
  await Deno.remove(dir, { recursive: true });
});

async function answeredAndSaved(dir: string) {
  await using server = await openReal(dir);
  assert.deepEqual((await slotsOf(server)).map((slot: { n_kept: number }) => slot.n_kept), [0, 0]);
  const fresh = await answered(server);
  assert.equal(fresh.cached, 0);
  const [slot] = await slotsOf(server);
  assert.equal(slot.id_task, `${fresh.id}-0`);
  assert.equal(slot.is_processing, false);
  // Whole blocks of prompt and answer.
  assert.equal(slot.n_kept, 128);

  const saved = await acted(server, 0, "save", "talk");
  assert.deepEqual(Object.keys(saved), ["id_slot", "filename", "n_saved", "n_written", "timings"]);
  assert.deepEqual([saved.id_slot, saved.filename, saved.n_saved], [0, "talk", 128]);
  assert.equal((await Deno.stat(`${dir}/talk`)).size, saved.n_written);
  assert.ok(saved.timings.save_ms > 0);

  assert.deepEqual(await acted(server, 0, "erase"), { id_slot: 0, n_erased: 128 });
  assert.deepEqual(await acted(server, 0, "erase"), { id_slot: 0, n_erased: 0 });
  const without = await answered(server);
  assert.deepEqual([without.text, without.cached], [fresh.text, 0]);
  await acted(server, 0, "erase");
  await acted(server, 0, "restore", "talk");
  const withRows = await answered(server);
  assert.deepEqual([withRows.text, withRows.cached], [fresh.text, 96]);

  // What was kept apart stays apart, also in its file.
  await answered(server, { cache_salt: "mine" });
  await acted(server, 0, "save", "salted");
  await acted(server, 0, "erase");
  await acted(server, 0, "restore", "salted");
  assert.equal((await answered(server, { cache_salt: "other" })).cached, 0);
  assert.equal((await answered(server, { cache_salt: "mine" })).cached, 96);
  return { ...saved, text: fresh.text };
}

Deno.test("files of another model and damaged ones are refused, a running slot is not touched", async () => {
  const dir = await Deno.makeTempDir();
  const { n_saved } = await answeredAndSaved(dir);
  assert.equal(n_saved, 128);
  const bytes = await Deno.readFile(`${dir}/talk`);
  bytes[bytes.length - 1000]! ^= 1;
  await Deno.writeFile(`${dir}/damaged`, bytes);
  await Deno.symlink(`${dir}/talk`, `${dir}/link`);
  await using server = await openReal(dir, { kvType: "f16" });
  const failing = async (name: string, status: number) =>
    await postFailing(server, "/slots/0?action=restore", { filename: name }, status);
  const foreign = await failing("talk", 422);
  assert.equal(foreign.code, "slot_file_foreign");
  assert.match(foreign.message, /^The slot file talk was saved .*another model/);
  assert.equal((await failing("link", 404)).code, "slot_file_missing");
  await using same = await openReal(dir);
  const damaged = await postFailing(same, "/slots/0?action=restore", { filename: "damaged" }, 422);
  assert.equal(damaged.code, "slot_file_damaged");
  assert.ok(!damaged.message.includes(dir));
  assert.equal((await answered(same)).cached, 0);

  // While somebody decodes: a slot that runs says so, the other one can be used.
  const stream = await post(same, "/v1/completions", { ...body, max_tokens: 400, stream: true });
  await eventually(async () => (await slotsOf(same))[0].is_processing, 5000);
  const [running] = await slotsOf(same);
  assert.equal(running.next_token.has_next_token, true);
  assert.equal(running.params.n_predict, 400);
  assert.equal((await postFailing(same, "/slots/0?action=erase", {}, 409)).code, "slot_busy");
  assert.equal((await acted(same, 1, "restore", "talk")).n_restored, 128);
  await stream.body?.cancel();
  await Deno.remove(dir, { recursive: true });
});

Deno.test("check 12: a bad name of a slot file is a 400, and nothing is written", async () => {
  const dir = await Deno.makeTempDir();
  const inside = `${dir}/slots`;
  await using server = await openReal(inside);
  await answered(server);
  for (
    const filename of [
      "../x",
      "..",
      "/etc/x",
      `${inside}/x`,
      "a/b",
      "a\\b",
      "x\0",
      "x".repeat(300),
      "",
      ".x",
      7,
      null,
      ["x"],
    ]
  ) {
    for (const action of ["save", "restore"]) {
      const error = await postFailing(server, `/slots/0?action=${action}`, { filename }, 400);
      assert.equal(error.param, "filename");
    }
  }
  assert.deepEqual([...Deno.readDirSync(inside)], []);
  assert.deepEqual([...Deno.readDirSync(dir)].map(({ name }) => name), ["slots"]);
  await acted(server, 0, "save", "fine-1.kv");
  assert.deepEqual([...Deno.readDirSync(inside)].map(({ name }) => name), ["fine-1.kv"]);
  await Deno.remove(dir, { recursive: true });
});

Deno.test("what is asked of slots wrongly, or of none, is refused by name", async () => {
  await using server = await openReal(null);
  const failing = async (path: string, more: object, status: number) =>
    (await postFailing(server, path, more, status)).code;
  const file = { filename: "x" };
  assert.equal(await failing("/slots/0", file, 400), "invalid_value");
  assert.equal(await failing("/slots/0?action=copy", file, 400), "invalid_value");
  for (const action of ["save", "restore"]) {
    const bare = await fetch(`${server.url}/slots/0?action=${action}`, { method: "POST" });
    assert.equal(bare.status, 400);
    assert.equal(
      (await bare.json()).error.message,
      'The request has no body, and needs one: a JSON object, such as {"filename": "talk"}.',
    );
  }
  assert.equal(await failing("/slots/x?action=save", file, 400), "invalid_value");
  assert.equal(await failing("/slots/2?action=save", file, 400), "slot_unknown");
  assert.equal(await failing("/slots/0?action=save", file, 404), "slot_empty");
  await answered(server);
  assert.equal(await failing("/slots/0?action=save", file, 501), "slot_folder_missing");
  assert.deepEqual(await acted(server, 0, "erase"), { id_slot: 0, n_erased: 128 });
  await using hidden = await openFakeServer();
  assert.equal((await fetch(`${hidden.url}/slots`)).status, 404);
});

Deno.test("an engine in a long step keeps nobody waiting who asks for the slots", async () => {
  await using server = await openFakeServer({ app: { operator: { slots: true } } });
  server.engine.stats = () => new Promise(() => {});
  const response = await fetch(`${server.url}/slots`);
  assert.equal(response.status, 503);
  assert.equal(response.headers.get("retry-after"), "1");
  assert.equal((await response.json()).error.code, "engine_busy");
});

Deno.test("an engine that is lost meanwhile is a 503 that says so, not a failure of the server", async () => {
  await using server = await openFakeServer({ app: { operator: { slots: true } } });
  for (const code of ["device_lost", "engine_crashed", "engine_closed", "internal"]) {
    server.engine.slotError = Object.assign(new Error("it broke in /srv/models/a"), { code });
    for (
      const response of [
        await fetch(`${server.url}/slots`),
        await act(server, 0, "save", { filename: "a" }),
        await act(server, 0, "erase"),
      ]
    ) {
      const { error } = await response.json();
      assert.equal(response.status, 503, JSON.stringify(error));
      const told = code === "internal" ? "engine_crashed" : code;
      assert.equal(error.code, told === "engine_closed" ? "shutting_down" : told);
      assert.doesNotMatch(error.message, /srv/);
    }
  }
});
