/**
 * The least time that a decode step over a selection can take on an adapter, from its rates and from
 * what the step has to multiply, read and upload. Pure.
 *
 * @module
 */
import { layerRecipe, POLICIES } from "../src/butler/policies/mod.ts";
import type { ScoreKind, StepRecipe } from "../src/butler/policies/types.ts";
import { intervalOf, type KvSettings } from "../src/butler/settings.ts";
import { kvBytesPerRow } from "../src/kv/device_tier.ts";
import type { ModelConfig } from "../src/model/types.ts";
import type { Rates } from "./_rates.ts";
import { type ProductShape, stepWork, type Work } from "./_work.ts";

/** Values of a projected key. */
const PROJECTED = 16;

/** What a step has to do beside the model's products. */
export interface SelectionWork {
  /** Attention in layers that attend to everything, and in the others. */
  readonly denseAttention: Work;
  readonly attention: Work;
  /** Of a step in the mean: scores are made every so many steps. */
  readonly scores: Work;
}

/** A case. */
export interface CeilingCase {
  readonly config: ModelConfig;
  readonly kvType: "f16" | "f32";
  readonly settings: KvSettings;
  /** Rows, the newest included. */
  readonly n: number;
  /** Attended rows of a KV head of a layer that is not dense; null: what the recipe says. */
  readonly rowsPerStep: number | null;
}

/**
 * Operations and bytes of attention and scores.
 *
 * The choice of rows is not counted: a threshold in the scoring kernel makes it nearly free.
 */
export function selectionWork(of: CeilingCase): SelectionWork {
  const { config, kvType, settings, n } = of;
  const { numHeads, headDim } = config;
  const rowBytes = kvBytesPerRow(config, kvType);
  const attend = (rows: number): Work => ({
    flops: 4 * numHeads * headDim * rows,
    bytes: rows * rowBytes,
  });
  let denseRows = 0;
  let rows = 0;
  let scores: Work = { flops: 0, bytes: 0 };
  const policy = POLICIES[settings.policy];
  settings.layers.forEach(({ role }, layer) => {
    const recipe = layerRecipe(settings, layer, n);
    if (recipe === "all") {
      denseRows += n;
      return;
    }
    rows += of.rowsPerStep ?? recipeRows(recipe, n);
    if (role !== "selected" || policy.once) return;
    const work = scoreWork(policy.scores, recipe.to - recipe.from, config, kvType);
    const steps = intervalOf(settings, layer);
    scores = sum(scores, { flops: work.flops / steps, bytes: work.bytes / steps });
  });
  return {
    denseAttention: attend(denseRows),
    attention: attend(rows),
    scores,
  };
}

function recipeRows({ prefix, windowStart, budgets, unit }: StepRecipe, n: number): number {
  const mean = budgets.reduce((total, units) => total + units, 0) / budgets.length;
  return prefix + mean * unit + n - windowStart;
}

/** Scores of so many candidates (rows, or pages of 16) in one layer. */
function scoreWork(
  kind: ScoreKind,
  candidates: number,
  { numHeads, numKvHeads, headDim }: ModelConfig,
  kvType: "f16" | "f32",
): Work {
  const valueBytes = kvType === "f16" ? 2 : 4;
  const each = (flopsOfHead: number, bytesOfKvHead: number): Work => ({
    flops: candidates * numHeads * flopsOfHead,
    bytes: candidates * numKvHeads * bytesOfKvHead,
  });
  switch (kind) {
    case "none":
      return each(0, 0);
    case "projected":
    case "predicted":
      return each(2 * PROJECTED, 2 * PROJECTED);
    case "exact":
      return each(2 * headDim, valueBytes * headDim);
    case "pages":
      return each(4 * headDim, 2 * valueBytes * headDim);
    case "mass":
    case "pooled":
      return each(0, 4);
  }
}

/** Rates that a ceiling is worked out with. */
export interface CeilingRates extends Rates {
  /** GB/s of large writes from the host to the device. */
  readonly upload: number;
  /** The adapter is a CPU: uploads take the time of its cores. */
  readonly software: boolean;
}

/**
 * Milliseconds of a step at these rates: of each part whichever of its operations and its bytes takes
 * longer, and the upload, which a GPU does beside everything else.
 *
 * @param uploadBytes Bytes of rows that come from the host.
 */
export function ceilingMs(
  of: CeilingCase,
  shapes: readonly ProductShape[],
  rates: CeilingRates,
  uploadBytes: number,
): number {
  const fastest = Math.max(...rates.matvec.values());
  const least = ({ flops, bytes }: Work, rate: number) =>
    Math.max(flops / rate, bytes / rates.stream) / 1e6;
  let ms = 0;
  for (const shape of shapes) {
    const work = stepWork(of.config, [shape], of.kvType, [1], 1, 1).get(shape.role)!;
    ms += least(work, rates.matvec.get(shape.type) ?? fastest);
  }
  const { denseAttention, attention, scores } = selectionWork(of);
  for (const work of [denseAttention, attention, scores]) ms += least(work, fastest);
  const upload = uploadBytes / rates.upload / 1e6;
  return rates.software ? ms + upload : Math.max(ms, upload);
}

function sum(a: Work, b: Work): Work {
  return { flops: a.flops + b.flops, bytes: a.bytes + b.bytes };
}
