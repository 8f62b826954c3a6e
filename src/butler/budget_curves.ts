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
  readonly rows: number;
  /** Mass that a row adds. */
  readonly gain: number;
}

/**
 * Shares out rows by the largest gain on the concave hulls of the curves, which no other way to
 * share them out exceeds. Of equal gains the first head's counts first. No head has fewer rows at a
 * larger mean.
 *
 * @param steps Row counts at which the curves were measured, ascending from over 0.
 * @param means Ascending from over 0, up to the last step: a point of the table each.
 * @throws {RangeError} For curves, steps or means that are not like that.
 */
export function greedyTable(
  curves: BudgetCurves,
  steps: readonly number[],
  means: readonly number[],
): BudgetTable {
  const { roles, mass } = curves;
  checkAscending("steps", steps, steps.every(Number.isInteger));
  checkAscending("means", means, (means.at(-1) ?? 0) <= (steps.at(-1) ?? 0));
  const stretches = roles.flatMap((role, layer) =>
    role === "selected" ? stretchesOf(mass[layer] ?? [], layer, steps) : []
  );
  if (stretches.length === 0) throw new RangeError("no layer is selected");
  const numKvHeads = Math.max(...mass.map((heads) => heads.length));
  const numHeads = roles.filter((role) => role === "selected").length * numKvHeads;
  // A stable sort: of equal gains those of the first head stay first.
  stretches.sort((a, b) => b.gain - a.gain);
  const rows = roles.map(() => new Array<number>(numKvHeads).fill(0));
  let spent = 0;
  let at = 0;
  let taken = 0;
  const points = means.map((mean): BudgetPoint => {
    const total = Math.round(mean * numHeads);
    while (spent < total) {
      const { layer, head, rows: length } = stretches[at]!;
      const count = Math.min(total - spent, length - taken);
      rows[layer]![head]! += count;
      spent += count;
      taken += count;
      if (taken === length) [at, taken] = [at + 1, 0];
    }
    return { mean, rows: rows.map((heads) => [...heads]) };
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
      hull.push({ layer, head, rows, gain });
    });
    return hull;
  });
}
