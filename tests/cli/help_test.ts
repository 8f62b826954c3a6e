import { assert } from "std-testing";
import { COMMANDS, runCli } from "../../src/cli/cli.ts";
import { BENCHMARKS } from "../../bench/mod.ts";
import { EVALUATIONS } from "../../src/cli/commands/eval.ts";
import { envName, flagName } from "../../src/cli/flags.ts";
import { wrap } from "../../src/cli/help.ts";
import { taskCode } from "../_task.ts";
import { command as fuzz } from "../fuzz/mod.ts";
import { command as soak } from "../soak/mod.ts";
import { FakeIo } from "./_io.ts";

async function helpOf(...args: string[]): Promise<string> {
  const io = new FakeIo();
  assert.equal(await runCli(args, io), 0);
  assert.equal(io.err, "");
  return io.out;
}

Deno.test("check 20: --help of every command lists every flag with its variable and its default", async () => {
  for (const { name, summary, load } of COMMANDS) {
    const { command } = await load();
    assert.equal(command.name, name);
    assert.equal(command.summary, summary);
    const help = await helpOf(name, "--help");
    assert.equal(await helpOf(name, "-h"), help);
    for (const [key, flag] of Object.entries(command.flags)) {
      // From the flag to the end of its entry; the next entry begins with two blanks and a dash.
      const start = help.search(new RegExp(`^  (-\\w, )?--${flagName(key)}( |$)`, "m"));
      assert.ok(start >= 0, `${name} --${flagName(key)}`);
      const entry = help.slice(start).split(/\n(?= {2}-|\n)/)[0]?.replace(/\s+/g, " ") ?? "";
      const fallback = flag.fallbackText ??
        (typeof flag.fallback === "boolean"
          ? (flag.fallback ? "on" : "off")
          : flag.fallback === null || Array.isArray(flag.fallback)
          ? "none"
          : String(flag.fallback));
      assert.ok(entry.includes(`${envName(key, flag)}, default: ${fallback}`), entry);
      assert.ok(entry.includes(flag.help), entry);
      for (const alias of flag.aliases ?? []) assert.ok(entry.includes(`--${alias}`), entry);
    }
    const widest = Math.max(...help.split("\n").map((line) => line.length));
    assert.ok(widest <= 100, `${name}: ${widest} columns`);
  }
});

Deno.test("no command declares a name or a short form twice", async () => {
  for (const { name, load } of COMMANDS) {
    const { flags } = (await load()).command;
    const names = Object.entries(flags).flatMap(([key, flag]) => [
      flagName(key),
      ...flag.aliases ?? [],
    ]);
    const shorts = Object.values(flags).flatMap((flag) => flag.short ?? []);
    assert.equal(new Set(names).size, names.length, name);
    assert.equal(new Set(shorts).size, shorts.length, name);
    assert.ok(!names.includes("help") && !shorts.includes("h"), name);
  }
});

Deno.test("--help of the program lists every command", async () => {
  for (const args of [[], ["--help"], ["-h"], ["help"]]) {
    const help = await helpOf(...args);
    for (const { name, summary } of COMMANDS) {
      assert.match(help, new RegExp(`^  ${name} +${summary}$`, "m"));
    }
  }
});

Deno.test("help and hints name what was typed to start the program", async () => {
  const env = { TOKENBUTLER_STARTED_AS: "./run" };
  const said = async (...args: string[]) => {
    const io = new FakeIo({ env });
    await runCli(args, io);
    return io.out + io.err;
  };
  assert.match(await said("--help"), /^Usage: \.\/run COMMAND/m);
  assert.match(await said("serve", "--help"), /^Usage: \.\/run serve \[flags\]$/m);
  assert.match(await said("bench", "http", "--help"), /^Usage: \.\/run bench http \[flags\]$/m);
  assert.match(await said("eval", "ppl", "--x"), /^Try: \.\/run eval ppl --help$/m);
});

Deno.test("--help of bench and eval lists what there is, and names no flags where there are none", async () => {
  for (const [name, entries] of [["bench", BENCHMARKS], ["eval", EVALUATIONS]] as const) {
    const help = await helpOf(name, "--help");
    const list = help.slice(help.indexOf("NAME is one of\n")).trimEnd();
    const names = [...list.matchAll(/^ {2}(\w+) /gm)].map(([, name]) => name);
    assert.deepEqual(names, entries.map(({ name }) => name));
    assert.ok(!list.includes("\n\n"), list);
  }
});

Deno.test("--help says how a switch is turned off that may be on by itself", async () => {
  const help = (await helpOf("serve", "--help")).replace(/\s+/g, " ");
  assert.ok(help.includes("Prometheus' text format (--no-metrics: off) TOKENBUTLER_METRICS"));
  assert.ok(!help.includes("--no-supervise"));
});

Deno.test("--help of the program has the exit codes", async () => {
  assert.match(await helpOf(), /Exit codes: 0 is success, 2 .* cannot work as asked, 1 any other/);
});

Deno.test("fuzz and soak name what starts them, in help and in hints", async () => {
  for (const command of [fuzz, soak]) {
    const { name } = command;
    for (
      const [env, typed] of [[{}, "deno task"], [
        { TOKENBUTLER_STARTED_AS: "./run" },
        "./run",
      ]] as const
    ) {
      const help = new FakeIo({ env });
      assert.equal(await taskCode(command, ["--help"], help), 0);
      assert.ok(help.out.includes(`\nUsage: ${typed} ${name} [flags]\n`), help.out);
      const wrong = new FakeIo({ env });
      assert.equal(await taskCode(command, ["--sed", "1"], wrong), 2);
      assert.match(wrong.err, /unknown flag --sed; did you mean --seed\?/);
      assert.ok(wrong.err.endsWith(`\nTry: ${typed} ${name} --help\n`), wrong.err);
    }
  }
});

Deno.test("check 20: --version prints the versions of program and Deno, and the adapter", async () => {
  const text = await helpOf("--version");
  assert.match(text, /^tokenbutler \d+\.\d+\.\d+\ndeno \d+\.\d+\.\d+\nadapter .+\n$/);
  assert.ok(text.includes(Deno.version.deno));
});

Deno.test("wrap() breaks at blanks and never loses a word", () => {
  assert.equal(wrap("aa bb cc", 2, 7), "aa bb\n  cc");
  assert.equal(wrap("a-very-long-word b", 0, 5), "a-very-long-word\nb");
});
