/**
 * Budgets that differ from head to head: how many rows each KV head may choose, calibrated at a few
 * means, and what follows from them for every mean between, below and above. Pure.
 *
 * @module
 */
import type { LayerRole } from "./settings_types.ts";

/** Rows of each head at one mean. */
export interface BudgetPoint {
  /** Rows of a KV head of a selected layer, the mean over all of them. */
  readonly mean: number;
  /** (L, Hkv) rows of each head; zeros in layers that are not selected. */
  readonly rows: readonly (readonly number[])[];
}

/** A calibrated table. At least one layer is selected. */
export interface BudgetTable {
  /** (L) */
  readonly roles: readonly LayerRole[];
  /** One or more, by ascending mean; no head's rows become fewer from one to the next. */
  readonly points: readonly BudgetPoint[];
  /**
   * Selected layers, rising, which choose at every step, whatever the interval: what some head of
   * theirs needs changes with every token. Absent: none.
   */
  readonly restless?: readonly number[];
}

/** A head whose rows are being decided. */
interface Head {
  readonly layer: number;
  readonly head: number;
  /** Its rows at each point. */
  readonly marks: readonly number[];
}

/** KV heads of selected layers. */
export function numSelectedHeads({ roles, points }: BudgetTable): number {
  return roles.reduce(
    (sum, role, layer) => sum + (role === "selected" ? points[0]!.rows[layer]!.length : 0),
    0,
  );
}

/** Leading layers that are dense. */
export function numDenseLayers(roles: readonly LayerRole[]): number {
  const first = roles.findIndex((role) => role !== "dense");
  return first < 0 ? roles.length : first;
}

/**
 * The same table with at least so many leading layers dense: the means are then those of the heads
 * that are left.
 *
 * @returns Roles alone, points null, where no layer is selected any more.
 */
export function withDenseLayers(
  table: BudgetTable,
  numDense: number,
): BudgetTable | { readonly roles: readonly LayerRole[]; readonly points: null } {
  if (table.roles.slice(0, numDense).every((role) => role === "dense")) return table;
  const roles = table.roles.map((role, layer) => layer < numDense ? "dense" : role);
  const numHeads = numSelectedHeads({ ...table, roles });
  const restless = table.restless?.filter((layer) => layer >= numDense);
  const shape = { roles, ...(restless === undefined ? {} : { restless }) };
  const points = table.points.map(({ rows }): BudgetPoint => {
    const left = rows.map((heads, layer) =>
      roles[layer] === "selected" ? heads : heads.map(() => 0)
    );
    return { mean: sumOf(left.map(sumOf)) / numHeads, rows: left };
  });
  // Layers that nobody gave rows to do not say how rows would be shared out among them.
  if (numHeads === 0 || points.at(-1)!.mean === 0) return { roles, points: null };
  return { ...shape, points };
}

/**
 * Rows of every head at any mean: between two points from the one to the other in a straight line,
 * below the first and above the last in proportion to it. The sum is that of the mean, exactly; a
 * head that has no use for more leaves the rest to the others.
 *
 * Rounding follows Webster's rule (the next row goes to the head that is furthest behind), since
 * with largest remainders a head could lose a row when the mean grows.
 *
 * @param mean Over the KV heads of selected layers; from 0, need not be whole.
 * @param most Rows that a head can have use for; whole, or infinity.
 * @returns (L, Hkv) whole numbers, zeros in layers that are not selected. None becomes less as the
 *   mean grows.
 */
export function rowsAt(table: BudgetTable, mean: number, most = Infinity): number[][] {
  const { roles, points } = table;
  const out = points[0]!.rows.map((heads) => heads.map(() => 0));
  let open = roles.flatMap((role, layer): Head[] =>
    role !== "selected" ? [] : out[layer]!.map((_, head) => ({
      layer,
      head,
      marks: points.map(({ rows }) => rows[layer]![head]!),
    }))
  );
  let left = Math.round(Math.min(mean, most) * open.length);
  for (;;) {
    const rows = alongPoints(open, left);
    const full = rows.map((count) => count > most);
    open.forEach(({ layer, head }, i) => out[layer]![head] = Math.min(rows[i]!, most));
    if (!full.includes(true)) return out;
    open = open.filter((_, i) => !full[i]);
    left -= most * full.filter((is) => is).length;
  }
}

/** Rows of the heads that have so many in all. */
function alongPoints(heads: readonly Head[], total: number): number[] {
  let from = heads.map(() => 0);
  let sum = 0;
  for (let point = 0; point < heads[0]!.marks.length; point++) {
    const to = heads.map(({ marks }) => marks[point]!);
    const next = sumOf(to);
    if (total <= next) return shareOut(from, total - sum, to.map((rows, i) => rows - from[i]!));
    from = to;
    sum = next;
  }
  // Who never had a row gets some only when nobody else has use for more.
  return shareOut(from, total - sum, sum === 0 ? heads.map(() => 1) : from);
}

/** Adds so many rows, in proportion to `parts`. */
function shareOut(rows: readonly number[], count: number, parts: readonly number[]): number[] {
  if (count === 0) return [...rows];
  const whole = sumOf(parts);
  const added = parts.map((part) => Math.floor((2 * count * part + whole) / (2 * whole)));
  let missing = count - sumOf(added);
  for (; missing > 0; missing--) {
    let next = -1;
    parts.forEach((part, i) => {
      if (part === 0) return;
      const sooner = next < 0 || (2 * added[i]! + 1) * parts[next]! < (2 * added[next]! + 1) * part;
      if (sooner) next = i;
    });
    added[next]!++;
  }
  for (; missing < 0; missing++) {
    let last = -1;
    parts.forEach((part, i) => {
      if (added[i] === 0) return;
      const later = last < 0 || (2 * added[i]! - 1) * parts[last]! >= (2 * added[last]! - 1) * part;
      if (later) last = i;
    });
    added[last]!--;
  }
  return rows.map((count, i) => count + added[i]!);
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
