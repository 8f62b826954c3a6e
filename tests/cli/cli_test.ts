import { assert } from "std-testing";
import { reportError, runCli } from "../../src/cli/cli.ts";
import { CommandError } from "../../src/cli/command.ts";
import { UsageError } from "../../src/cli/flags.ts";
import { errorFromData, errorToData } from "../../src/engine/protocol.ts";
import { StoreFolderError } from "../../src/kv/store/errors.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { FakeIo } from "./_io.ts";

async function fails(args: string[], env: Record<string, string> = {}) {
  const io = new FakeIo({ env });
  const code = await runCli(args, io);
  assert.equal(io.out, "", "an error belongs on standard error");
  return { code, message: io.err };
}

Deno.test("runCli() answers a mistyped command with the nearest one and exit code 2", async () => {
  const cases: [string, RegExp][] = [
    ["sreve", /unknown command "sreve"; did you mean serve\?/],
    ["genrate", /unknown command "genrate"; did you mean generate\?/],
    ["xyzzy", /unknown command "xyzzy"\n/],
    ["tset", /unknown command "tset"; did you mean test\?/],
    ["test", /test is a task: \.\/run test, or deno task test/],
    ["--model", /the command comes first, and "--model" is none/],
  ];
  for (const [name, message] of cases) {
    const result = await fails([name]);
    assert.equal(result.code, 2, name);
    assert.match(result.message, message);
    assert.match(result.message, /Try: tokenbutler --help\n$/);
  }
});

Deno.test("runCli() refuses bad flags of every command in two lines and with exit code 2", async () => {
  const cases: [string[], RegExp][] = [
    [["serve", "--prot", "1"], /unknown flag --prot; did you mean --port\?/],
    [["serve", "--port", "70000"], /--port: wanted a whole number from 0 to 65535, got "70000"/],
    [["serve", "extra"], /unexpected argument "extra"/],
    [["generate"], /one of --prompt, --prompt-file, --ids is needed/],
    [["generate", "--prompt", "a", "--ids", "[1]"], /--prompt and --ids exclude each other/],
    [["generate", "-p", "a", "--temperature", "3"], /--temperature: wanted a number from 0 to 2/],
    [
      ["generate", "-p", "a", "--max-tokens", "0"],
      /--max-tokens: wanted a whole number of 1 or|from 1/,
    ],
    [["generate", "-p", "a", "--seed", "-1"], /--seed: wanted a whole number from 0 to 4294967295/],
    [["generate", "-p", "a", "--kernel", "x"], /--kernel: wanted NAME=VALUE, got "x"/],
    [["generate", "--ids", "[1,2"], /--ids: wanted a JSON array of token ids, got "\[1,2"/],
    [["generate", "--ids", "[]"], /one or more token ids/],
    [["generate", "--ids", "[1,-2]"], /got "-2" at index 1/],
    [["generate", "--ids", '[1,"2"]'], /got .* at index 1/],
    [["generate", "--ids", "[1.5]"], /got "1\.5" at index 0/],
    [["score"], /one of --text-file, --ids is needed/],
    [["score", "--ids", "[1,2,3]", "--prefill", "0"], /--prefill: wanted a whole number/],
    [["tokenize", "--ids", "28120, 905"], /--ids: wanted a JSON array like \[1,2\] or a file, got/],
    [["chat", "--kv-type", "q8"], /--kv-type: wanted f16 or f32, got "q8"/],
    [["tokenize"], /one of --text, --text-file, --ids is needed/],
    [["doctor", "--verbose"], /unknown flag --verbose/],
    [["bench", "nothing-like-it"], /unknown benchmark "nothing-like-it"/],
  ];
  for (const [args, message] of cases) {
    const result = await fails(args);
    assert.equal(result.code, 2, `${args.join(" ")}: ${result.message}`);
    assert.match(result.message, message);
    assert.equal(result.message.trimEnd().split("\n").length, 2, result.message);
    assert.match(result.message, new RegExp(`Try: tokenbutler ${args[0]} --help\n$`));
  }
});

Deno.test("runCli() refuses bad variables as it refuses bad flags", async () => {
  const result = await fails(["serve"], { TOKENBUTLER_PORT: "http" });
  assert.equal(result.code, 2);
  assert.match(
    result.message,
    /TOKENBUTLER_PORT: wanted a whole number from 0 to 65535, got "http"/,
  );
});

Deno.test("runCli() names files that cannot be read, with exit code 1", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const binary = `${folder}/binary`;
    await Deno.writeFile(binary, Uint8Array.of(0xff, 0xfe, 0x41));
    const cases: [string[], RegExp][] = [
      [["generate", "--prompt-file", `${folder}/none`], /cannot read .*there is no such file/],
      [["generate", "--prompt-file", binary], /is not a UTF-8 text file/],
      [["generate", "--ids", `${folder}/none`], /--ids: cannot read .*there is no such file/],
      [["score", "--text-file", folder], /--text-file: cannot read .*: it is a folder/],
      [["generate", "--prompt-file", "/proc/self/environ"], /ordinary files only/],
      [["tokenize", "--text", "a", "--model", `${folder}/none.gguf`], /none\.gguf/],
      [["generate", "--prompt", "a", "--model", binary], /binary/],
      [["serve", "--port", "0", "--model", binary], /binary/],
    ];
    for (const [args, message] of cases) {
      const result = await fails(args);
      assert.equal(result.code, 1, `${args.join(" ")}: ${result.message}`);
      assert.match(result.message, message);
      assert.doesNotMatch(result.message, /defect|\n +at /);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("reportError() prints a stack only when asked, and calls only a surprise a defect", () => {
  const expected: unknown[] = [
    new CommandError("no room"),
    new UsageError("no flag"),
    new ModelFileError("truncated", "x.gguf", "x.gguf ends early"),
    new Deno.errors.PermissionDenied("no permission"),
    // As it comes from the engine's worker.
    errorFromData(errorToData(new StoreFolderError("the folder /p", "--kv-disk", "EACCES", null))),
  ];
  for (const error of expected) {
    const io = new FakeIo();
    assert.equal(reportError(error, "generate", io), error instanceof UsageError ? 2 : 1);
    assert.doesNotMatch(io.err, /defect|\n +at /);
  }
  const io = new FakeIo();
  assert.equal(reportError(new TypeError("x is undefined"), "", io), 1);
  assert.match(io.err, /^tokenbutler: x is undefined\nThis looks like a defect/);
  const debug = new FakeIo({ env: { TOKENBUTLER_DEBUG: "1" } });
  reportError(new CommandError("outer", { cause: new Error("inner") }), "", debug);
  assert.match(debug.err, /outer[\s\S]*\n +at [\s\S]*inner[\s\S]*\n +at /);
});

Deno.test("reportError() takes a reader that went away for no error", () => {
  const io = new FakeIo();
  assert.equal(reportError(new Deno.errors.BrokenPipe("gone"), "generate", io), 0);
  assert.equal(io.err, "");
});

Deno.test("an error that ends a command with a log of JSON is a line of it", async () => {
  const ask = async (args: readonly string[], env: Readonly<Record<string, string>> = {}) => {
    const io = new FakeIo({ env });
    const code = await runCli(args, io);
    const { time, ...line } = JSON.parse(io.err);
    assert.ok(Date.parse(time) > 0);
    assert.ok(io.err.endsWith("}\n") && io.out === "");
    return { code, ...line };
  };
  const json = ["--log-format", "json"];
  // Also where the command line itself is what is wrong, wherever the form is said.
  const wrong = {
    code: 2,
    level: "error",
    message: "unknown flag --prot; did you mean --port?",
    hint: "Try: tokenbutler serve --help",
  };
  assert.deepEqual(await ask(["serve", "--prot", "1", ...json]), wrong);
  assert.deepEqual(await ask(["serve", "--log-format=json", "--prot", "1"]), wrong);
  const env = { TOKENBUTLER_LOG_FORMAT: "json" };
  assert.deepEqual(await ask(["serve", "--prot", "1"], env), wrong);
  const level = ["--log-level", "error"];
  const missing = await ask(["serve", "--model", "/no/such/file.gguf", ...json, ...level]);
  assert.deepEqual([missing.code, missing.level, missing.hint], [1, "error", undefined]);
  assert.match(missing.message, /\/no\/such\/file\.gguf/);
  assert.equal(missing.stack, undefined);
  const debug = await ask(["serve", "--prot", "1", ...json], { TOKENBUTLER_DEBUG: "1" });
  assert.match(debug.stack, /\n +at /);
  // A form that is none is said in text, and so is everything that asked for no log.
  const io = new FakeIo({ env });
  assert.equal(await runCli(["serve", "--log-format", "jsno"], io), 2);
  assert.match(io.err, /^tokenbutler serve: --log-format: .*\nTry: /);
  const other = new FakeIo({ env });
  assert.equal(await runCli(["tokenize", "--prot"], other), 2);
  assert.match(other.err, /^tokenbutler tokenize: /);
});
