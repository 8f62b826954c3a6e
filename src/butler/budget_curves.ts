/**
 * Makes a table of budgets from what rows are worth to each head: the same total, given out where
 * the next row adds the most attention mass. Pure.
 *
 * @module
 */
import type { BudgetPoint, BudgetTable } from "./budget_table.ts";
import type { LayerRole } from "./settings_types.ts";

/** What was measured, and which layers it is for. */
export interface BudgetCurves {
  /** (L) */
  readonly roles: readonly LayerRole[];
  /**
   * (L, Hkv, steps) attention mass that the predictor's first rows add to sinks and window, at each
   * step's number of rows; empty or anything in layers that are not selected.
   */
  readonly mass: readonly (readonly (readonly number[])[])[];
}

/** A stretch of a head's curve on which every row adds the same. */
interface Stretch {
  readonly layer: number;
  readonly head: number;
  /** Rows of the head before this stretch. */
  readonly first: number;
  readonly rows: number;
  /** Mass that a row adds. */
  readonly gain: number;
}

/**
 * Shares out rows by the largest gain on the concave hulls of the curves, which no other way to
 * share them out exceeds that gives every head its even part. Of equal gains the first head's counts
 * first. No head has fewer rows at a mean that is larger by 1 / (1 - even) or more.
 *
 * @param steps Row counts at which the curves were measured, ascending from over 0.
 * @param means Ascending from over 0, up to the last step: a point of the table each.
 * @param even Part of a mean that every head has at least, in whole rows; 0 to 1.
 * @throws {RangeError} For curves, steps, means or a part that are not like that.
 */
export function greedyTable(
  curves: BudgetCurves,
  steps: readonly number[],
  means: readonly number[],
  even = 0,
): BudgetTable {
  const { roles, mass } = curves;
  checkAscending("steps", steps, steps.every(Number.isInteger));
  checkAscending("means", means, (means.at(-1) ?? 0) <= (steps.at(-1) ?? 0));
  if (!(even >= 0 && even <= 1)) throw new RangeError(`a part must be from 0 to 1, not ${even}`);
  const stretches = roles.flatMap((role, layer) =>
    role === "selected" ? stretchesOf(mass[layer] ?? [], layer, steps) : []
  );
  if (stretches.length === 0) throw new RangeError("no layer is selected");
  const numKvHeads = Math.max(...mass.map((heads) => heads.length));
  const numHeads = roles.filter((role) => role === "selected").length * numKvHeads;
  // A stable sort: of equal gains those of the first head stay first.
  stretches.sort((a, b) => b.gain - a.gain);
  const points = means.map((mean): BudgetPoint => {
    const least = Math.floor(mean * even);
    const rows = roles.map((role) =>
      new Array<number>(numKvHeads).fill(role === "selected" ? least : 0)
    );
    let left = Math.round(mean * numHeads) - least * numHeads;
    for (const { layer, head, first, rows: length } of stretches) {
      if (left === 0) break;
      // What lies below the even part every head has already.
      const count = Math.min(left, Math.max(0, first + length - Math.max(first, least)));
      rows[layer]![head]! += count;
      left -= count;
    }
    return { mean, rows };
  });
  return { roles, points };
}

function checkAscending(name: string, values: readonly number[], fits: boolean): void {
  const ascending = values.every((value, i) => value > (values[i - 1] ?? 0) && value < Infinity);
  if (values.length > 0 && ascending && fits) return;
  throw new RangeError(
    name === "steps"
      ? `steps must be whole numbers that ascend from over 0, not ${values.join(", ")}`
      : `means must ascend from over 0 up to the last step, not ${values.join(", ")}`,
  );
}

function stretchesOf(
  heads: readonly (readonly number[])[],
  layer: number,
  steps: readonly number[],
): Stretch[] {
  return heads.flatMap((mass, head) => {
    if (mass.length !== steps.length || !mass.every(Number.isFinite)) {
      throw new RangeError(
        `the curve of layer ${layer}, KV head ${head} must have ${steps.length} numbers, one for ` +
          "each step",
      );
    }
    const hull: Stretch[] = [];
    steps.forEach((step, i) => {
      let rows = step - (steps[i - 1] ?? 0);
      let gain = (mass[i]! - (mass[i - 1] ?? 0)) / rows;
      // A stretch that gains more than the one before it is one with it.
      for (let last = hull.at(-1); last !== undefined && last.gain <= gain; last = hull.at(-1)) {
        gain = (gain * rows + last.gain * last.rows) / (rows + last.rows);
        rows += last.rows;
        hull.pop();
      }
      hull.push({ layer, head, first: step - rows, rows, gain });
    });
    return hull;
  });
}
