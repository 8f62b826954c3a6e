import { assert } from "std-testing";
import { COMMANDS } from "../../src/cli/cli.ts";
import { BENCHMARKS } from "../../bench/mod.ts";
import { EVALUATIONS } from "../../src/cli/commands/eval.ts";
import { command as fuzz } from "../fuzz/mod.ts";
import { command as soak } from "../soak/mod.ts";
import { envName, type Flag, flagName, resolveFlags } from "../../src/cli/flags.ts";

/** Texts of which each flag takes at least one that is not its default. */
const TEXTS = [
  "3",
  "2",
  "1",
  "0.5",
  "4096",
  "5000",
  "64MiB",
  "f32",
  "int8",
  "ahead",
  "streaming",
  "json",
  "debug",
  "dense",
  "full",
  "window",
  "NAME=value",
  "5=1.5",
  "https://a.example",
  "some-text",
];

/** A text that a flag takes and that sets something else than its default. */
function textFor(key: string, flag: Flag<unknown>): string {
  for (const text of TEXTS) {
    const result = flag.schema?.safeParse(text);
    if (result?.success && String(result.data) !== String(flag.fallback)) return text;
  }
  throw new Error(`no text for --${flagName(key)}: add one to this test`);
}

Deno.test("check 20: every flag of every command gives the same setting from its variable", async () => {
  let numFlags = 0;
  for (const { name, load } of COMMANDS) {
    const { flags } = (await load()).command;
    for (const [key, flag] of Object.entries(flags)) {
      numFlags++;
      const written = `--${flagName(key)}`;
      const isOn = flag.fallback === true;
      const [args, text] = flag.kind === "switch"
        ? isOn ? [[`--no-${flagName(key)}`], "0"] : [[written], "1"]
        : [[written, textFor(key, flag)], textFor(key, flag)];
      const settings = (args: readonly string[], variable?: string) =>
        resolveFlags(flags, args, (asked) => asked === envName(key, flag) ? variable : undefined)
          .settings;
      assert.deepEqual(settings([], text), settings(args), `${name} ${written}`);
      assert.notDeepEqual(settings(args), settings([]), `${name} ${written}`);
      if (flag.kind !== "switch") continue;
      // Both: the command line wins.
      assert.deepEqual(settings(args, isOn ? "1" : "0"), settings(args), `${name} ${written}`);
    }
  }
  assert.ok(numFlags > 100, `${numFlags} flags`);
});

/** Variables whose flag is told in other words by each command, and means the same. */
const OTHER_WORDS = [
  // A JSON array, or a file: the text that the command works on.
  "TOKENBUTLER_IDS",
  // What an answer has at most.
  "TOKENBUTLER_MAX_TOKENS",
  // One line of JSON on standard output.
  "TOKENBUTLER_JSON",
];

Deno.test("no variable means something else for another command", async () => {
  const commands = [
    ...await Promise.all(COMMANDS.map(async ({ load }) => (await load()).command)),
    ...await Promise.all(EVALUATIONS.map(async ({ load }) => (await load()).command)),
    ...await Promise.all(BENCHMARKS.map(async ({ load }) => (await load()).command)),
    fuzz,
    soak,
  ];
  const meanings = new Map<string, { readonly by: string; readonly text: string }>();
  for (const { name, flags } of commands) {
    const ofCommand = Object.entries(flags).map(([key, flag]) => envName(key, flag));
    assert.equal(new Set(ofCommand).size, ofCommand.length, `${name} reads a variable twice`);
    for (const [key, flag] of Object.entries(flags)) {
      const variable = envName(key, flag);
      const words = OTHER_WORDS.includes(variable) ? "" : flag.help;
      const text = `${flag.kind} ${flag.placeholder} ${words}`;
      const first = meanings.get(variable) ?? { by: name, text };
      assert.equal(text, first.text, `${variable} of ${name} and of ${first.by}`);
      meanings.set(variable, first);
    }
  }
  // The test itself has seen the flags that once had one variable.
  for (const name of ["SEED", "TRAIN_SEED", "PROMPT", "BENCH_HTTP_PROMPT", "EVAL_RULER_TOKENS"]) {
    assert.ok(meanings.has(`TOKENBUTLER_${name}`), name);
  }
  assert.ok(meanings.has("TOKENBUTLER_FUZZ_SEED") && meanings.has("TOKENBUTLER_SOAK_MINUTES"));
  assert.ok(!meanings.has("TOKENBUTLER_TOKENS"));
});

Deno.test("a variable for generate says nothing to a benchmark", async () => {
  const http = BENCHMARKS.find(({ name }) => name === "http");
  const { command } = await http!.load();
  const settings = (env: Record<string, string>) =>
    resolveFlags(command.flags, [], (name) => env[name]).settings as Record<string, unknown>;
  const plain = settings({});
  assert.deepEqual(settings({ TOKENBUTLER_PROMPT: "Once", TOKENBUTLER_TOKENS: "5" }), plain);
  assert.equal(settings({ TOKENBUTLER_BENCH_HTTP_PROMPT: "7" })["prompt"], 7);
  // What every command with a model has is theirs too.
  assert.equal(settings({ TOKENBUTLER_KV_TYPE: "f32" })["kvType"], "f32");
});
