import { assert, fc } from "std-testing";
import {
  envName,
  flagName,
  listFlag,
  resolveFlags,
  switchFlag,
  UsageError,
  valueFlag,
} from "../../src/cli/flags.ts";
import { decimal, integer, nameValue, oneOf, text, tokenBias } from "../../src/cli/values.ts";

const group = "Test";
const FLAGS = {
  maxSeqs: valueFlag({
    group,
    help: "a number",
    placeholder: "N",
    schema: integer(1, 256),
    fallback: 4,
  }),
  topP: valueFlag({ group, help: "a part", placeholder: "P", schema: decimal(0, 1), fallback: 1 }),
  kvType: valueFlag({
    group,
    help: "a word",
    placeholder: "T",
    schema: oneOf(["f16", "f32"]),
    fallback: "f16" as const,
  }),
  model: valueFlag({
    group,
    help: "a path",
    placeholder: "PATH",
    short: "m",
    aliases: ["checkpoint"],
    schema: text,
    fallback: null,
  }),
  kernel: listFlag({ group, help: "pairs", placeholder: "NAME=VALUE", schema: nameValue }),
  bias: listFlag({ group, help: "biases", placeholder: "ID=BIAS", schema: tokenBias }),
  json: switchFlag({ group, help: "a switch" }),
} as const;

function resolve(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  return resolveFlags(FLAGS, args, (name) => env[name]);
}

function refused(args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  try {
    resolve(args, env);
  } catch (error) {
    assert.ok(error instanceof UsageError, String(error));
    return error.message;
  }
  assert.fail(`accepted: ${args.join(" ")} ${JSON.stringify(env)}`);
}

Deno.test("flagName() and envName() follow one rule", () => {
  assert.equal(flagName("maxSeqs"), "max-seqs");
  assert.equal(envName("maxSeqs", {}), "TOKENBUTLER_MAX_SEQS");
  assert.equal(envName("json", {}), "TOKENBUTLER_JSON");
  assert.equal(envName("warmUp", { job: "bench-http" }), "TOKENBUTLER_BENCH_HTTP_WARM_UP");
});

Deno.test("resolveFlags() gives the defaults where nothing is said", () => {
  assert.deepEqual(resolve([]), {
    settings: {
      maxSeqs: 4,
      topP: 1,
      kvType: "f16",
      model: null,
      kernel: [],
      bias: [],
      json: false,
    },
    positionals: [],
  });
});

Deno.test("resolveFlags() reads every way to write a flag", () => {
  const { settings } = resolve([
    "--max-seqs=8",
    "-m",
    "a b",
    "--kernel",
    "matvec=sg_r8",
    "--kernel=attention=wg=64",
    "--bias",
    "5=-1.5",
    "--json",
    "--top-p",
    ".5",
  ]);
  assert.equal(settings.maxSeqs, 8);
  assert.equal(settings.model, "a b");
  assert.equal(settings.topP, 0.5);
  assert.equal(settings.json, true);
  assert.deepEqual(settings.kernel, [["matvec", "sg_r8"], ["attention", "wg=64"]]);
  assert.deepEqual(settings.bias, [[5, -1.5]]);
  assert.equal(resolve(["--checkpoint", "x"]).settings.model, "x");
  assert.equal(resolve(["--model", "x", "--model", "y"]).settings.model, "y");
  assert.deepEqual(resolve(["--", "--json"]).positionals, ["--json"]);
});

Deno.test("resolveFlags() lets the command line beat the environment", () => {
  const env = { TOKENBUTLER_MAX_SEQS: "9", TOKENBUTLER_JSON: "1", TOKENBUTLER_KERNEL: "a=b" };
  assert.equal(resolve([], env).settings.maxSeqs, 9);
  assert.equal(resolve(["--max-seqs", "2"], env).settings.maxSeqs, 2);
  assert.equal(resolve(["--no-json"], env).settings.json, false);
  assert.deepEqual(resolve(["--kernel", "c=d"], env).settings.kernel, [["c", "d"]]);
});

Deno.test("resolveFlags() takes an empty variable for none", () => {
  assert.equal(resolve([], { TOKENBUTLER_MAX_SEQS: "", TOKENBUTLER_JSON: "" }).settings.maxSeqs, 4);
});

Deno.test("resolveFlags() reads switches and lists from the environment", () => {
  for (const word of ["1", "true", "ON", "yes"]) {
    assert.equal(resolve([], { TOKENBUTLER_JSON: word }).settings.json, true, word);
  }
  for (const word of ["0", "False", "off", "no"]) {
    assert.equal(resolve([], { TOKENBUTLER_JSON: word }).settings.json, false, word);
  }
  const env = { TOKENBUTLER_KERNEL: '["a=b", "c=d"]' };
  assert.deepEqual(resolve([], env).settings.kernel, [["a", "b"], ["c", "d"]]);
});

Deno.test("a flag and its variable give the same settings", () => {
  const word = fc.string({ minLength: 1, maxLength: 20 });
  const pair = fc.tuple(fc.stringMatching(/^[a-z_]{1,8}$/), word).map((parts) => parts.join("="));
  const given = fc.record({
    maxSeqs: fc.integer({ min: -3, max: 300 }).map(String),
    topP: fc.double({ min: -0.2, max: 1.2, noNaN: true }).map((value) => value.toFixed(4)),
    kvType: fc.constantFrom("f16", "f32", "q8"),
    model: word,
    kernel: fc.array(pair, { minLength: 1, maxLength: 3 }),
    json: fc.constantFrom("1"),
  }, { requiredKeys: [] });
  const outcome = (run: () => unknown) => {
    try {
      return run();
    } catch (error) {
      assert.ok(error instanceof UsageError, String(error));
      // The two differ in the name of the source alone.
      return error.message.replace(/^\S+: /, "");
    }
  };
  fc.assert(
    fc.property(given, (settings) => {
      const args: string[] = [];
      const env: Record<string, string> = {};
      for (const [key, value] of Object.entries(settings)) {
        if (key === "json") args.push("--json");
        else for (const one of [value].flat()) args.push(`--${flagName(key)}=${one}`);
        env[envName(key, {})] = Array.isArray(value) ? JSON.stringify(value) : value;
      }
      assert.deepEqual(outcome(() => resolve(args)), outcome(() => resolve([], env)));
    }),
    { seed: 11, numRuns: 500 },
  );
});

Deno.test("resolveFlags() refuses what it does not know and names the nearest", () => {
  assert.equal(refused(["--max-seq", "3"]), "unknown flag --max-seq; did you mean --max-seqs?");
  assert.equal(refused(["--modle=x"]), "unknown flag --modle; did you mean --model?");
  assert.equal(refused(["-x"]), "unknown flag -x");
  assert.equal(refused(["--quite-different"]), "unknown flag --quite-different");
  assert.equal(refused(["--no-model"]), "unknown flag --no-model: --model is no switch");
});

Deno.test("resolveFlags() refuses missing and superfluous values", () => {
  assert.equal(refused(["--model"]), "--model needs a value (PATH)");
  assert.match(
    refused(["--model", "--json"]),
    /--model needs a value, but the flag --json follows/,
  );
  assert.equal(
    refused(["--json=maybe"]),
    '--json: wanted 1, true, on, yes, 0, false, off or no, got "maybe"',
  );
  assert.equal(
    refused(["--no-json=true"]),
    '--no-json takes no value, but got "true": say it alone, or --json=true or =false',
  );
  assert.equal(refused(["--model", ""]), '--model: wanted a value, got ""');
});

Deno.test("resolveFlags() names source, rule and value of a bad value", () => {
  const cases: [string[], Record<string, string>, string][] = [
    [["--max-seqs", "0"], {}, '--max-seqs: wanted a whole number from 1 to 256, got "0"'],
    [["--max-seqs", "1.5"], {}, '--max-seqs: wanted a whole number from 1 to 256, got "1.5"'],
    [["--max-seqs", "1e1"], {}, '--max-seqs: wanted a whole number from 1 to 256, got "1e1"'],
    [["--max-seqs", " 1"], {}, '--max-seqs: wanted a whole number from 1 to 256, got " 1"'],
    [["--top-p", "NaN"], {}, '--top-p: wanted a number from 0 to 1, got "NaN"'],
    [["--top-p", "Infinity"], {}, '--top-p: wanted a number from 0 to 1, got "Infinity"'],
    [["--top-p", "-0.1"], {}, '--top-p: wanted a number from 0 to 1, got "-0.1"'],
    [["--kv-type", "q4"], {}, '--kv-type: wanted f16 or f32, got "q4"'],
    [["--kernel", "matvec"], {}, '--kernel: wanted NAME=VALUE, got "matvec"'],
    [["--kernel", "=x"], {}, '--kernel: wanted NAME=VALUE, got "=x"'],
    [[], { TOKENBUTLER_MAX_SEQS: "many" }, "TOKENBUTLER_MAX_SEQS: wanted a whole number from 1"],
    [[], { TOKENBUTLER_JSON: "maybe" }, "TOKENBUTLER_JSON: wanted 1, true, on, yes, 0, false"],
    [[], { TOKENBUTLER_KERNEL: "[1]" }, "TOKENBUTLER_KERNEL: wanted one value or a JSON array of"],
    [["--bias", "5=101"], {}, "--bias: wanted ID=BIAS, a token id and a number from -100 to 100"],
    [["--bias", "x=1"], {}, "--bias: wanted ID=BIAS, a token id and a number from -100 to 100"],
  ];
  for (const [args, env, want] of cases) {
    const message = refused(args, env);
    assert.ok(message.startsWith(want), `${message} does not start with ${want}`);
  }
  assert.ok(refused(["--max-seqs", "9".repeat(500)]).length < 200);
});

Deno.test("a switch takes yes and no behind an equals sign, and the last one counts", () => {
  const json = (args: string[], env: Record<string, string> = {}) =>
    resolve(args, env).settings.json;
  for (const word of ["true", "1", "on", "YES"]) assert.equal(json([`--json=${word}`]), true);
  for (const word of ["false", "0", "off", "No"]) {
    assert.equal(json([`--json=${word}`], { TOKENBUTLER_JSON: "1" }), false);
  }
  assert.equal(json(["--json", "--json=false"]), false);
  assert.equal(json(["--json=false", "--json"]), true);
  // What follows in an argument of its own is none of its.
  assert.deepEqual(resolve(["--json", "false"]).positionals, ["false"]);
});
