/** A tiny model whose rows have no room: sizes of its cache, text for it, and a projection. @module */
import { encodeCalibration } from "../../src/butler/calibration/file.ts";
import { encodePredictor } from "../../src/butler/predictor/file.ts";
import type { BudgetTable } from "../../src/butler/budget_table.ts";
import type { TierOptions } from "../../src/engine/types.ts";
import { openModel } from "../../src/model/open.ts";
import { assert } from "std-testing";
import { Random } from "../gpu/_rig.ts";
import { randomPredictor } from "../butler/_predictor.ts";
import { tinyModel } from "./_golden.ts";

/** How far NLL may be off at f32. */
export const NLL_BOUND = 0.0005;

/** Path of the model. */
export async function offloadedModel(): Promise<string> {
  return (await tinyModel("llama31-bf16")).path;
}

/** A projection for `loki`: any will do, since it only has to be the same everywhere. */
export async function makeCalibration(modelPath?: string): Promise<string> {
  const source = await openModel(modelPath ?? await offloadedModel());
  const { numLayers, numKvHeads, headDim } = source.config;
  const fingerprint = await source.fingerprint();
  source.close();
  const random = new Random(3);
  const size = numLayers * numKvHeads * headDim * 16;
  const projection = random.floats(size, 0.2).map((x) => Math.max(-1, Math.min(1, x)));
  const bytes = encodeCalibration({
    model: { fingerprint, numLayers, numKvHeads, headDim },
    origin: { tokens: 1, context: 1, program: "test" },
    projection,
  });
  return await temporaryFile(bytes);
}

/** A predictor for `tokenbutler`: any will do here too. */
export async function makePredictor(
  modelPath?: string,
  stride = 2,
  budgets: BudgetTable | null = null,
): Promise<string> {
  const source = await openModel(modelPath ?? await offloadedModel());
  const { numLayers, hiddenSize, numHeads, numKvHeads, headDim } = source.config;
  const fingerprint = await source.fingerprint();
  source.close();
  const model = { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim };
  const predictor = randomPredictor({ model, stride, inner: 16 }, new Random(4));
  const notes = { training: null, results: null, budgets, program: "test" };
  return await temporaryFile(encodePredictor({ predictor, notes }));
}

/** Writes a file that is gone when the tests are over. */
async function temporaryFile(bytes: Uint8Array): Promise<string> {
  const file = await Deno.makeTempFile({ suffix: ".safetensors" });
  await Deno.writeFile(file, bytes);
  globalThis.addEventListener("unload", () => Deno.removeSync(file));
  return file;
}

/** Some text. */
export function textIds(count: number, vocabSize: number, seed = 7): number[] {
  let state = seed;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % vocabSize;
  });
}

/** Bytes of a block of one layer of the model: 2 KV heads of 32 values, keys and values in f32. */
const BLOCK_BYTES = 32 * 2 * 2 * 32 * 4;
const NUM_LAYERS = 3;

/** Device memory for so many blocks a layer, and nothing else of a default. */
export function onDevice(
  blocks: number,
  more: Partial<TierOptions> = {},
): Partial<TierOptions> {
  return { deviceBytes: NUM_LAYERS * blocks * BLOCK_BYTES, ...more };
}

/** Largest difference of two rows of numbers. */
export function worst(got: readonly number[], wanted: readonly number[]): number {
  assert.equal(got.length, wanted.length);
  return got.reduce((most, x, i) => Math.max(most, Math.abs(x - wanted[i]!)), 0);
}
