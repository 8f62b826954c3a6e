/** The engine and its device: memory while loading, no device at all, a device that goes away. */
import { assert } from "std-testing";
import type { LoadProbe } from "./_load_probe.ts";
import { createEngineParts, createLocalEngine, watchedEngine } from "../../src/engine/create.ts";
import { openEngine, TINY_OPTIONS } from "./_engine.ts";
import { SMOLLM2_PATH, tinyModel } from "./_golden.ts";
import { generate, request, run } from "./_requests.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const LARGEST_EXCESS = 300e6;

/** Runs a program of the project to its end. */
async function runDeno(args: readonly string[], env: Record<string, string> = {}) {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "--no-prompt", ...args],
    cwd: ROOT,
    env,
  });
  const { code, signal, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return { code, signal, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("loading the default model needs little memory beyond what stays in use", async () => {
  const program = "tests/golden/_load_probe.ts";
  const { code, stdout, stderr } = await runDeno([
    "--allow-read",
    "--allow-sys",
    program,
    SMOLLM2_PATH,
  ]);
  assert.equal(code, 0, stderr);
  const { before, most, after, samples } = JSON.parse(stdout) as LoadProbe;
  const mb = (bytes: number) => `${Math.round(bytes / 1e6)} MB`;
  console.log(`memory before ${mb(before)}, at most ${mb(most)}, after ${mb(after)}`);
  assert.ok(samples > 50, `only ${samples} samples were taken`);
  assert.ok(after > before + 100e6, "the weights are not there");
  assert.ok(most - after <= LARGEST_EXCESS, `${mb(most - after)} more while loading`);
});

Deno.test("program says what is missing and exits where there is no adapter", async () => {
  const { path } = await tinyModel("llama31-bf16");
  const { code, signal, stdout, stderr } = await runDeno(
    ["-P=cli", "main.ts", "generate", "--model", path, "--ids", "[1,2]"],
    { DENO_WEBGPU_BACKEND: "dx12" },
  );
  assert.equal(signal, null);
  assert.equal(code, 1);
  assert.equal(stdout, "");
  assert.match(stderr, /no WebGPU adapter was found\. Install a Vulkan driver/);
  assert.doesNotMatch(stderr, /^\s+at /m, "a stack is shown");
});

Deno.test("engine ends every request with device_lost when the device goes away", async () => {
  const { path } = await tinyModel("llama31-bf16");
  await using opened = await openEngine(path, { maxSequences: 2 });
  const { engine, parts } = opened;
  const first = run(engine, request([1, 2, 3], 200), (count) => {
    if (count === 5) parts.device.destroy();
  });
  const beside = run(engine, request([4, 5, 6], 200));
  const queued = run(engine, request([7, 8], 200));
  const answers = await Promise.all([first, beside, queued]);
  for (const { error, reason } of answers) {
    assert.equal(reason, null);
    assert.equal(error?.code, "device_lost");
  }
  assert.ok(answers[0].ids.length >= 5 && answers[0].ids.length < 200);
  const later = await run(engine, request([1], 4));
  assert.equal(later.error?.code, "device_lost");
});

Deno.test("engine tells when it is lost: by its device, by an error of it, not by being closed", async () => {
  const harms = [
    (device: GPUDevice) => device.destroy(),
    // Nobody catches this error: later steps could give anything.
    (device: GPUDevice) => void device.createBuffer({ size: 16, usage: 0 }),
  ];
  const options = { ...TINY_OPTIONS, modelPath: (await tinyModel("llama31-bf16")).path };
  for (const harm of harms) {
    const parts = await createEngineParts(options, () => {});
    const engine = watchedEngine(parts);
    harm(parts.device);
    assert.equal((await engine.lost).code, "device_lost");
    assert.equal((await run(engine, request([1], 4))).error?.code, "device_lost");
    await engine.close();
  }
  const closed = await createLocalEngine(options, () => {});
  let isLost = false;
  closed.lost.then(() => isLost = true);
  await closed.close();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(!isLost);
});

Deno.test("engine starts again on a new device after one was lost", async () => {
  const { path, expected } = await tinyModel("llama31-bf16");
  {
    await using opened = await openEngine(path);
    opened.parts.device.destroy();
    const { error } = await run(opened.engine, request([1], 4));
    assert.equal(error?.code, "device_lost");
  }
  await using opened = await openEngine(path);
  const { ids } = await generate(opened.engine, expected.ids.slice(0, 16), 24);
  assert.deepEqual(ids, expected.greedy_from_first_16);
});
