/**
 * What a server must do before it may be left alone on a network: twenty checks. The tests that make
 * a check begin with its number; this table says what each number means and where its tests are.
 */
import { assert } from "std-testing";

/** A check: what holds, and the files that have tests of it. */
type Check = readonly [what: string, ...files: string[]];

const CHECKS: readonly Check[] = [
  [
    "npm openai: chat and completions, whole and streamed; usage ends a stream; a prompt that comes again is found",
    "server/clients_test.ts",
  ],
  [
    "npm ai: a stream finishes with `stop`, or with `error` where it fails half-way, and no schema is violated",
    "server/clients_test.ts",
    "server/client_errors_test.ts",
    // Of check 18: all npm clients stream there while the engine is lost.
    "cli/engine_loss_test.ts",
  ],
  ["npm @langchain/openai: streamed text and usage", "server/clients_test.ts"],
  [
    "the readers of llmperf and of vllm bench get the whole text of streams without comments; vllm bench's skips comments that do not come alone",
    "server/clients_test.ts",
    "server/streams_test.ts",
  ],
  [
    "a client that leaves while decoding, in prefill or in the queue gives everything back within 1 s and disturbs nobody",
    "server/clients_test.ts",
    "server/disconnect_test.ts",
  ],
  [
    "SIGTERM: a stream completes, new requests are refused, exit code 0; a stuck stream gets an error event",
    "cli/life_process_test.ts",
  ],
  [
    "a full queue answers 429 with Retry-After, and a client that tries again succeeds",
    "server/protection_test.ts",
  ],
  [
    "a prompt that fills the context is 400 with both numbers, one token less works and ends with `length`",
    "server/clients_test.ts",
  ],
  [
    "a wrong or absent key is 401, the health and preflights need none, keys are compared in constant time",
    "server/guard_test.ts",
    "server/protection_test.ts",
  ],
  ["a foreign Host is 403, a foreign Origin may read nothing", "server/protection_test.ts"],
  [
    "bodies: too large 413, stalled 408, malformed or out of bounds 400, unknown fields ignored",
    "server/protection_test.ts",
  ],
  ["a bad name of a slot file is 400, and nothing is written", "server/slots_test.ts"],
  [
    "a corrupt GGUF file is refused by name in under 1 s and 64 MiB",
    "cli/corrupt_model_test.ts",
  ],
  [
    "a template that loops, nests or writes without end is refused or 400, and the server lives",
    "server/protection_test.ts",
  ],
  [
    "streams have no half characters, give the text of the whole answer, and leak no stop string",
    "server/streams_test.ts",
  ],
  ["special tokens that a user types do not end the turn", "server/protection_test.ts"],
  [
    "a client that stops reading is parked or given up, and others go on",
    "server/stall_test.ts",
  ],
  [
    "a lost device or worker: error events, 503, one new start, then the end",
    "cli/engine_loss_test.ts",
  ],
  [
    "the metrics page parses, its names are stable, its counters only grow",
    "server/metrics_test.ts",
  ],
  [
    "--help lists every flag with its variable, both give the same setting, --version says what runs",
    "cli/env_flags_test.ts",
    "cli/help_test.ts",
  ],
];

/** Tests of checks that stand in another check's place. */
const SHARED = new Map([["cli/engine_loss_test.ts", 18]]);

const HERE = new URL("./", import.meta.url).pathname;

/** Numbers of the checks that each file has tests of. */
function* numbered(folder = ""): Generator<[file: string, number: number]> {
  for (const { name, isDirectory } of Deno.readDirSync(HERE + folder)) {
    const path = `${folder}${name}`;
    if (isDirectory && name !== "data") yield* numbered(`${path}/`);
    else if (name.endsWith("_test.ts")) {
      const text = Deno.readTextFileSync(HERE + path);
      for (const [, number] of text.matchAll(/Deno\.test\(\s*["\x60]check (\d+): /g)) {
        yield [path, Number(number)];
      }
    }
  }
}

Deno.test("each of the twenty checks has its tests, where the table says", () => {
  assert.equal(CHECKS.length, 20);
  const found = new Map(CHECKS.map((_, index) => [index + 1, new Set<string>()]));
  for (const [file, number] of numbered()) {
    const files = found.get(number);
    assert.ok(files !== undefined, `${file}: there is no check ${number}`);
    files.add(file);
  }
  for (const [index, [what, ...files]] of CHECKS.entries()) {
    const number = index + 1;
    const own = files.filter((file) => (SHARED.get(file) ?? number) === number);
    assert.deepEqual([...found.get(number)!].toSorted(), own.toSorted(), `${number}: ${what}`);
    assert.ok(own.length > 0, `${number}: ${what}`);
  }
});
