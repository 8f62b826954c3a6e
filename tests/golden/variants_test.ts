/** Every choice of kernels, chunk sizes and split tensors, end to end on tiny models. */
import { checkOverrideNames } from "../../src/engine/kernel_overrides.ts";
import { DeviceError } from "../../src/gpu/device.ts";
import { assert } from "std-testing";
import { LogitReader, openEngine } from "./_engine.ts";
import { figure, maxError, TINY_LOGIT_BOUND, type TinyModel, tinyModel } from "./_golden.ts";
import { generate, scoreByEcho } from "./_requests.ts";

type Overrides = Readonly<Record<string, string>>;

/** What a GPU without subgroups of a known size gets. */
const GPU_PLAN = {
  subgroups: "false",
  matmulLanes: "32",
  matvecRows: "4",
  matmulRows: "4",
  rowLanes: "32",
  attentionForm: "tiled",
  attentionLanes: "64",
  attentionQueries: "8",
};

const VARIANTS: readonly Overrides[] = [
  { subgroups: "false" },
  GPU_PLAN,
  { attentionForm: "tiled", attentionLanes: "4", attentionSplit: "16" },
  { attentionForm: "tiled", attentionLanes: "8", attentionSplit: "64", attentionQueries: "1" },
  { attentionLanes: "4", attentionSplit: "32" },
  { attentionForm: "lanes", attentionLanes: "8", attentionSplit: "64", attentionQueries: "2" },
  { matvecRows: "4", matmulRows: "8", laneTiles: "none" },
  { tokenTiles: "1", laneTiles: "none" },
  { tokenTiles: "1,3", laneTiles: "none" },
  // Multiples of every subgroup up to 32 lanes.
  { laneTiles: "32", laneRows: "64" },
  { readback: "awaited" },
  { sample_wg: "64", sample_splits: "64" },
];

async function check(
  { path, expected }: TinyModel,
  kernelOverrides: Overrides,
  prefillChunk: number,
  contextLength = 128,
): Promise<void> {
  checkOverrideNames(kernelOverrides);
  const { ids, positions, logits, nll } = expected;
  const worst = (rows: readonly Float32Array[]) =>
    Math.max(...rows.map((row, index) => maxError(row, logits[positions[index]!]!)));
  await using opened = await openEngine(path, { kernelOverrides, prefillChunk, contextLength });
  const { engine, parts } = opened;
  using reader = await LogitReader.create(parts);
  const byPrefill = worst(await reader.prefilled(ids, positions, prefillChunk));
  const byDecode = worst(await reader.decoded(ids, positions));
  const byEcho = maxError(await scoreByEcho(engine, ids), nll);
  console.log(
    `${JSON.stringify(kernelOverrides)}, chunks of ${prefillChunk}: logits ${figure(byPrefill)} ` +
      `prefilled, ${figure(byDecode)} decoded; NLL ${figure(byEcho)}`,
  );
  assert.ok(byPrefill <= TINY_LOGIT_BOUND, `prefilled logits are off by ${byPrefill}`);
  assert.ok(byDecode <= TINY_LOGIT_BOUND, `decoded logits are off by ${byDecode}`);
  assert.ok(byEcho <= 2 * TINY_LOGIT_BOUND, `NLL is off by ${byEcho}`);
  const greedy = await generate(engine, ids.slice(0, 16), 24);
  assert.deepEqual(greedy.ids, expected.greedy_from_first_16);
}

for (const overrides of VARIANTS) {
  Deno.test(`engine matches the reference with ${JSON.stringify(overrides)}`, async () => {
    await check(await tinyModel("llama31-bf16"), overrides, 64);
  });
}

for (const chunk of [1, 7, 32, 128]) {
  Deno.test(`engine matches the reference when prompts go in by ${chunk}`, async () => {
    await check(await tinyModel("llama31-bf16"), {}, chunk);
  });
}

/**
 * Limits under which matrices are cut: embedding and output in pieces, query, key and value apart,
 * gate and up apart. No less than what the cache and the activations need.
 */
const PIECES = {
  "qwen2-bias-tied-f32": 32768,
  "phi3-fused-f32": 32768,
  "llama-kquants": 49152,
};

for (const [name, bytes] of Object.entries(PIECES)) {
  Deno.test(`engine matches the reference with tensors in pieces of ${bytes} on ${name}`, async () => {
    await check(await tinyModel(name), { maxBindingBytes: String(bytes) }, 16);
  });
}

Deno.test("engine refuses sizes of attention that do not fit its form", async () => {
  const { path } = await tinyModel("llama31-bf16");
  for (const sizes of [{ attentionSplit: "48", attentionLanes: "4" }, { attentionLanes: "64" }]) {
    const opening = openEngine(path, { kernelOverrides: { attentionForm: "lanes", ...sizes } });
    await assert.rejects(opening, (error) => error instanceof DeviceError);
  }
});

Deno.test("engine refuses an adapter whose bindings hold no page of keys", async () => {
  const { path } = await tinyModel("qwen2-bias-tied-f32");
  const opening = openEngine(path, { kernelOverrides: { maxBindingBytes: "4096" } });
  await assert.rejects(
    opening,
    (error) => error instanceof DeviceError && error.code === "too_small",
  );
});
