/** The budgets of a predictor's heads, from what was measured on held-out windows. @module */
import { greedyTable } from "../butler/budget_curves.ts";
import type { BudgetPoint, BudgetTable } from "../butler/budget_table.ts";
import type { LayerRole } from "../butler/settings_types.ts";
import type { HeadMeasure } from "./measure.ts";
import { MEASURED_COUNTS, TABLE_MEANS } from "./settings.ts";

/** Curves of all heads, and the windows that they were measured on. */
export interface MeasuredHeads {
  /** (layers after the first, KV heads) in one list. */
  readonly heads: readonly HeadMeasure[];
  /** Of a window. */
  readonly tokens: number;
}

/**
 * Up to this part of a window a budget is measured on it. In windows that are shorter than that the
 * last rows of a budget are all that is left, and add nothing; in much longer ones small budgets were
 * shared out worse (64 rows, perplexity).
 */
const MOST_SHARE = 1 / 4;

/**
 * Part of a mean that every head has whatever its curve says. Curves are of the text that was trained
 * on: of another kind of text heads that had next to nothing there want rows, and perplexity was
 * worse with their budgets than with the same number for all.
 */
const EVEN_PART = 1 / 2;

/**
 * A head is restless if rows that an earlier step chose make it miss so many times the attention that
 * it misses with its own. On the default model two heads miss 77 and 19 times as much (they look for
 * what followed the newest token before), two others 4 times, the next 2.5 times: the README says what
 * it does to perplexity that the layers of all four choose at every step.
 */
const RESTLESS_TIMES = 3;
/** The least that it misses more, of all its attention: less is not worth a selection a step. */
const RESTLESS_PART = 0.02;

/** Rows with an earlier one near enough that a head is judged by. */
const LEAST_KEPT_ROWS = 64;

/** Whether rows lie near enough to each other to tell which heads are restless. */
export function tellsRestless(heads: readonly HeadMeasure[]): boolean {
  return heads.every(({ kept }) => (kept?.rows ?? 0) >= LEAST_KEPT_ROWS);
}

/**
 * Layers with a restless head.
 *
 * @param heads (layers after the first, KV heads) in one list.
 * @returns Rising.
 */
export function restlessLayers(heads: readonly HeadMeasure[], numKvHeads: number): number[] {
  const layers = heads.flatMap(({ kept }, index) => {
    if (kept === null) return [];
    const { missedFresh, missedKept } = kept;
    const restless = missedKept >= RESTLESS_TIMES * missedFresh &&
      missedKept - missedFresh >= RESTLESS_PART;
    return restless ? [1 + Math.floor(index / numKvHeads)] : [];
  });
  return [...new Set(layers)];
}

/**
 * Shares rows out among the heads by the attention that their curves say each row adds: small
 * budgets by those of short windows, large ones by those of long ones.
 *
 * @param first Role of the layer that has no predictor.
 */
export function budgetsOf(
  short: MeasuredHeads,
  long: MeasuredHeads,
  numKvHeads: number,
  first: LayerRole,
): BudgetTable {
  const few = tableOf(short, numKvHeads, first);
  const many = tableOf(long, numKvHeads, first);
  const most = short.tokens * MOST_SHARE;
  const points: BudgetPoint[] = [];
  few.points.forEach((point, i) => {
    const before = points.at(-1);
    points.push(point.mean <= most ? point : grown(before, many.points[i]!));
  });
  // Large budgets are kept from large windows, unless their rows lie too far apart.
  const near = [long, short].find(({ heads }) => tellsRestless(heads));
  const restless = near === undefined ? [] : restlessLayers(near.heads, numKvHeads);
  return { roles: few.roles, points, ...(restless.length === 0 ? {} : { restless }) };
}

/**
 * A point as near to a wanted one as heads that keep what they have at a smaller mean allow: those
 * that are to have more get the same part of it, whole rows, so that the total is the wanted one.
 */
function grown(before: BudgetPoint | undefined, wanted: BudgetPoint): BudgetPoint {
  if (before === undefined) return wanted;
  const have = before.rows.flat();
  const want = wanted.rows.flat();
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  const more = want.map((rows, i) => Math.max(0, rows - have[i]!));
  const part = (sum(want) - sum(have)) / sum(more);
  const got = more.map((rows, i) => have[i]! + Math.floor(rows * part));
  let left = sum(want) - sum(got);
  // Each was rounded down by less than a row.
  for (let i = 0; left > 0; i++) {
    if (more[i]! === 0) continue;
    got[i]!++;
    left--;
  }
  const numKvHeads = wanted.rows[0]!.length;
  const rows = wanted.rows.map((_, layer) =>
    got.slice(layer * numKvHeads, (layer + 1) * numKvHeads)
  );
  return { mean: wanted.mean, rows };
}

function tableOf(
  { heads, tokens }: MeasuredHeads,
  numKvHeads: number,
  first: LayerRole,
): BudgetTable {
  // Rows of a window's second half have at least half a window to choose from.
  const most = Math.max(tokens / 2, TABLE_MEANS.at(-1)!);
  const counts = MEASURED_COUNTS.filter((count, i) =>
    count <= most || MEASURED_COUNTS[i - 1]! < most
  );
  const numLayers = 1 + heads.length / numKvHeads;
  const layers = Array.from({ length: numLayers }, (_, layer) => layer);
  return greedyTable(
    {
      roles: layers.map((layer) => layer === 0 ? first : "selected"),
      mass: layers.map((layer) =>
        Array.from(
          { length: numKvHeads },
          (_, head) =>
            layer === 0
              ? []
              : heads[(layer - 1) * numKvHeads + head]!.added.slice(0, counts.length),
        )
      ),
    },
    counts,
    TABLE_MEANS,
    EVEN_PART,
  );
}
