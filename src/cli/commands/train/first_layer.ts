/** How much of the first layer's attention lies on sinks and window, for `--first-layer auto`. @module */
import { MOST_KEY_ROWS, openKeys, readKeys } from "../../../butler/calibration/read_keys.ts";
import { resolveKv } from "../../../butler/settings.ts";
import { headTruth } from "../../../eval/recall.ts";
import { RowScorer } from "../../../eval/rows.ts";
import { SelectionReader } from "../../../eval/selections.ts";
import { timedBar } from "../../progress.ts";
import { contextOf, openEngine } from "./captures.ts";
import type { TrainJob } from "./job.ts";

/**
 * Runs the held-out windows once more and measures the first layer at the rows that are measured
 * elsewhere.
 *
 * @param means Rows of the window beside those of `--window`.
 * @returns For each of them the part of the attention on sinks and window, the mean over rows and heads.
 */
export async function firstLayerShares(
  job: TrainJob,
  means: readonly number[],
): Promise<readonly number[]> {
  const { settings: { sinks, window }, shape: { model }, samples: { heldOut } } = job;
  const { numHeads, numKvHeads, headDim } = model;
  const group = numHeads / numKvHeads;
  const { settings } = resolveKv({ policy: "streaming", sinks, window }, model, {
    fits: true,
    canProject: false,
    canPredict: false,
  });
  const parts = await openEngine(job);
  const bar = timedBar(job.io, "Measuring the first layer", heldOut.length);
  const sums = means.map(() => 0);
  let count = 0;
  try {
    using reader = new SelectionReader(parts, model);
    using source = await openKeys(parts, model);
    const scorer = new RowScorer(parts, contextOf(job.settings));
    for (const [index, { ids, positions }] of heldOut.entries()) {
      const heads = Array.from(
        { length: numKvHeads },
        () => new Float32Array(ids.length * headDim),
      );
      await scorer.visit(ids, positions, settings, async (rows) => {
        // The prompt is there at the first row; what the others write again are the same keys.
        if (rows[0]!.position === positions[0]) {
          for (let first = 0; first < ids.length; first += MOST_KEY_ROWS) {
            const some = Math.min(MOST_KEY_ROWS, ids.length - first);
            const values = await readKeys(source, 0, 0, first, some);
            heads.forEach((keys, head) => {
              const at = head * some * headDim;
              keys.set(values.subarray(at, at + some * headDim), first * headDim);
            });
          }
        }
        const queries = await reader.queries(0, rows.length);
        for (const [row, { position }] of rows.entries()) {
          heads.forEach((keys, head) => {
            const at = (row * numHeads + head * group) * headDim;
            const own = queries.subarray(at, at + group * headDim);
            count++;
            means.forEach((mean, i) => {
              const truth = headTruth(own, keys, headDim, position + 1, {
                sinks,
                window: window + mean,
                budget: 0,
              });
              // Null: there are no other rows.
              sums[i]! += truth?.bestMass ?? 1;
            });
          });
        }
      });
      bar.update(index + 1);
    }
    return sums.map((sum) => sum / count);
  } finally {
    bar.stop();
    parts.dispose();
  }
}
