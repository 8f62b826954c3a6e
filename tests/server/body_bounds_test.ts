/** Bodies that are small in bytes and large in everything else. */
import { assert, fc } from "std-testing";
import { JsonBounds } from "../../src/server/admission/json_bounds.ts";
import { openFakeServer } from "./_server.ts";
import { failure, post, readAs } from "./_wire.ts";

const MIB = 1024 * 1024;
/** Most that the loop may be held up, with a client in the same process and a busy machine. */
const HELD_UP_MS = 500;

const bytesOf = (text: string) => new TextEncoder().encode(text);
const numbered = (count: number) => Array.from({ length: count }, (_, i) => `"k${i}":1`).join();

/** Milliseconds that the loop was held up at most, and what `/live` said meanwhile. */
async function heldUp(url: string, work: () => Promise<void>) {
  let longest = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  }, 5);
  try {
    const [live] = await Promise.all([fetch(`${url}/live`), work()]);
    assert.equal(await live.text(), '{"status":"ok"}');
  } finally {
    clearInterval(timer);
  }
  return longest;
}

const HOSTILE: readonly (readonly [string, string])[] = [
  ["objects in objects", `{"prompt":${'{"a":'.repeat(15 * MIB / 6)}1`],
  ["lists in lists", `{"prompt":${"[".repeat(7 * MIB)}${"]".repeat(7 * MIB)}}`],
  ["small objects", `{"prompt":[${"{},".repeat(5 * MIB)}1]}`],
  ["small lists", `{"prompt":"x","more":[${"[],".repeat(5 * MIB)}1]}`],
  ["numbers", `{"prompt":[${"1,".repeat(7 * MIB)}1]}`],
  ["fields", `{"prompt":"x",${numbered(500_000)}}`],
  ["members", `{"prompt":"x","more":{${numbered(500_000)}}}`],
];

Deno.test("15 MiB of small things are 400 before they are parsed, and /live answers meanwhile", async () => {
  await using server = await openFakeServer();
  for (const [name, text] of HOSTILE) {
    const body = bytesOf(text);
    const longest = await heldUp(server.url, async () => {
      const response = await post(server, "/v1/completions", "", { body });
      const { error } = await readAs(failure, response, 400);
      assert.equal(error.code, "body_too_complex", name);
      assert.match(error.message, /^The request body has more than \d+ /);
    });
    assert.ok(longest < HELD_UP_MS, `${name}: held up for ${Math.round(longest)} ms`);
  }
});

Deno.test("long prompts and conversations are taken, and more ids than the context are 400 at once", async () => {
  await using server = await openFakeServer({ contextLength: 1_900_000 });
  server.tokenizer.encode = () => [1, 2];
  const { engine } = server;
  const generate = engine.generate.bind(engine);
  // The fake engine takes its time for a prompt.
  engine.generate = (asked) => generate({ ...asked, promptIds: asked.promptIds.slice(0, 8) });
  const ids = (count: number) => `{"max_tokens":1,"prompt":[${"1,".repeat(count - 1)}1]}`;
  const parts = '[{"type":"text","text":"{[,:"},{"type":"text","text":"\\"\\\\"}]';
  const message = `{"role":"user","name":"a","content":${parts}}`;
  const cases: readonly (readonly [string, string, number])[] = [
    ["/v1/completions", ids(1_500_000), 200],
    ["/v1/completions", ids(2_000_000), 400],
    // Of braces and commas: text is text.
    ["/v1/completions", JSON.stringify({ prompt: '{"a":[1,'.repeat(200_000), max_tokens: 1 }), 200],
    [
      "/v1/chat/completions",
      `{"max_tokens":1,"messages":[${`${message},`.repeat(3999)}${message}]}`,
      200,
    ],
  ];
  for (const [path, text, status] of cases) {
    const body = bytesOf(text);
    const longest = await heldUp(server.url, async () => {
      const response = await post(server, path, "", { body });
      const answer = await response.text();
      assert.equal(response.status, status, answer.slice(0, 300));
    });
    assert.ok(longest < HELD_UP_MS, `held up for ${Math.round(longest)} ms`);
  }
});

Deno.test("JsonBounds counts the same however the bytes come, and nothing inside of strings", () => {
  const depth = (levels: number) => fc.constant("[".repeat(levels) + "]".repeat(levels));
  const text = fc.oneof(
    fc.jsonValue({ maxDepth: 4 }).map((value) => JSON.stringify(value)),
    fc.string().map((inner) => JSON.stringify(`${inner}\\"${"[".repeat(200)}`)),
    depth(128),
    depth(129),
  );
  const isTaken = (parts: readonly Uint8Array[]) => {
    const bounds = new JsonBounds();
    try {
      for (const part of parts) bounds.take(part);
      return true;
    } catch {
      return false;
    }
  };
  fc.assert(
    fc.property(text, fc.array(fc.nat({ max: 300 })), (text, cuts) => {
      const bytes = bytesOf(text);
      const ends = [...cuts.toSorted((a, b) => a - b), bytes.length];
      const parts = ends.map((end, nth) => bytes.subarray(ends[nth - 1] ?? 0, end));
      const isFine = !text.startsWith("[".repeat(129));
      return isTaken([bytes]) === isFine && isTaken(parts) === isFine &&
        isTaken([...bytes].map((byte) => Uint8Array.of(byte))) === isFine;
    }),
    { seed: 5, numRuns: 300 },
  );
});
