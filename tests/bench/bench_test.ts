import { assert } from "std-testing";
import { BENCHMARKS } from "../../bench/mod.ts";
import type { CliIo } from "../../src/cli/io.ts";

const MODEL = new URL("../data/tiny/llama-legacy.gguf", import.meta.url).pathname;

/** Runs a benchmark and returns its lines of JSON and its table. */
async function bench(name: string, args: readonly string[]) {
  let out = "";
  let err = "";
  const io = {
    stdout: (text: string) => void (out += text),
    stderr: (text: string) => void (err += text),
    stderrIsTerminal: false,
    env: () => undefined,
  } as unknown as CliIo;
  const entry = BENCHMARKS.find((candidate) => candidate.name === name)!;
  const code = await (await entry.load()).run(args, io);
  assert.equal(code, 0, err);
  const cases = out.split("\n").filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { cases, err };
}

/** As small as a run can be: that it runs is what is tested, not how fast. */
const RUNS: readonly (readonly [string, readonly string[], number])[] = [
  ["decode", ["--contexts", "5,40", "--steps", "2", "--rounds", "1"], 2],
  ["prefill", ["--lengths", "3,33", "--rounds", "1"], 2],
  ["http", ["--streams", "1,2", "--requests", "1", "--tokens", "4", "--rounds", "1"], 4],
  ["batch", ["--sizes", "1,3", "--prompt", "9", "--steps", "2", "--rounds", "1"], 2],
];

for (const [name, args, numCases] of RUNS) {
  Deno.test(`bench ${name} reports a line of JSON for each case`, async () => {
    const { cases, err } = await bench(name, ["--model", MODEL, ...args]);
    assert.equal(cases.length, numCases);
    for (const entry of cases) {
      assert.equal(entry["bench"], name);
      for (const key of ["device", "model", "commit"]) {
        assert.match(String(entry[key]), /\S/, key);
      }
      assert.ok(Number(entry["ms"]) > 0);
      assert.ok(Number(entry["msMin"]) <= Number(entry["ms"]));
      assert.ok(Number(entry["ms"]) <= Number(entry["msP95"]));
    }
    assert.match(err, new RegExp(`^${name}: `, "m"));
  });
}

Deno.test("bench http says what HTTP took of the first token of each request", async () => {
  const args = ["--streams", "3", "--requests", "2", "--tokens", "4", "--rounds", "2"];
  const { cases, err } = await bench("http", ["--model", MODEL, ...args]);
  const [direct, http] = cases;
  assert.equal(direct!["firstCostMs"], undefined);
  const cost = Number(http!["firstCostMs"]);
  assert.ok(cost > 0 && cost < Number(http!["firstMsP99"]), `${cost} ms`);
  assert.ok(Number(http!["lostPercentError"]) > 0);
  assert.match(err, /^3 at once: HTTP takes .* % of the tokens a second \(standard error /m);
});

Deno.test("bench http measures beside an engine that waits instead of computing", async () => {
  const args = ["--steps", "20", "--streams", "2", "--requests", "1", "--tokens", "4"];
  const { cases } = await bench("http", ["--model", MODEL, ...args, "--rounds", "1"]);
  assert.deepEqual(cases.map(({ way }) => way), ["engine", "http"]);
  for (const entry of cases) {
    assert.equal(entry["device"], "none, steps of 20 ms");
    // The step that its prompt has, at least.
    assert.ok(Number(entry["firstMsMean"]) >= 20 && Number(entry["msP99"]) >= 20);
  }
});

Deno.test("bench kernels finds every part of a step", async () => {
  const args = ["--contexts", "20", "--prefills", "9", "--starts", "0,30", "--rounds", "1"];
  const { cases } = await bench("kernels", ["--model", MODEL, ...args]);
  const parts = (step: string) =>
    cases.filter((entry) => entry["step"] === step).map((entry) => entry["part"]);
  const common = ["embedding", "norms", "qkv", "rope + cache", "attention"];
  const rest = ["attention out", "gate/up", "down", "head", "sampler", "whole step"];
  assert.deepEqual(parts("decode at 20"), [...common, ...rest]);
  assert.deepEqual(parts("prefill of 9 at 0"), [...common, ...rest]);
  assert.deepEqual(parts("prefill of 9 at 30"), [...common, ...rest]);
  const total = cases.filter((entry) => entry["step"] === "decode at 20");
  const dispatches = total.map((entry) => Number(entry["dispatches"]));
  assert.equal(dispatches.slice(0, -1).reduce((a, b) => a + b), dispatches.at(-1));
});

Deno.test("every benchmark lists its flags", async () => {
  for (const { name, load } of BENCHMARKS) {
    let out = "";
    const io = { stdout: (text: string) => void (out += text), env: () => undefined };
    assert.equal(await (await load()).run(["--help"], io as unknown as CliIo), 0);
    assert.match(out, new RegExp(`^tokenbutler bench ${name}: `));
    assert.match(out, name === "compare" ? /_COMPARE_BEFORE,/ : /TOKENBUTLER_BENCH_\w+_ROUNDS,/);
  }
});

Deno.test("bench latency measures cases in turns and writes its files", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const [json, svg] = [`${folder}/latency.json`, `${folder}/latency.svg`];
    const small = ["--sinks", "4", "--window", "8", "--budget", "8", "--prefill", "32"];
    const short = ["--steps", "1", "--warm", "1", "--rounds", "1", "--rate-rounds", "0"];
    const { cases, err } = await bench("latency", [
      ...["--model", MODEL, "--contexts", "33,70", "--policies", "dense,tokenbutler"],
      ...[...small, ...short, "--places", "device", "--json-file", json, "--svg", svg],
    ]);
    assert.deepEqual(
      cases.map(({ context, rows, policy }) => [context, rows, policy]),
      [[33, "repeated", "dense"], [70, "repeated", "dense"]],
    );
    for (const entry of cases) {
      assert.ok(Number(entry["ms"]) > 0);
      assert.ok(Number(entry["weightsMs"]) > 0);
      assert.ok(Number(entry["denseAttentionMs"]) > 0);
      assert.equal(entry["ceilingMs"], null);
    }
    assert.match(err, /^rows repeated: .* no quality is reported/m);
    assert.match(err, /^not measured: device, tokenbutler: /m);
    const document = JSON.parse(await Deno.readTextFile(json));
    assert.deepEqual(document.cases, cases);
    assert.match(await Deno.readTextFile(svg), /^<svg .*<\/svg>\s*$/s);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
