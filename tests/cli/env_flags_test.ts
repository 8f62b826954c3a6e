import { assert } from "std-testing";
import { COMMANDS } from "../../src/cli/cli.ts";
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
        resolveFlags(flags, args, (asked) => asked === envName(key) ? variable : undefined)
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
