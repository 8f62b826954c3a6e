/** Which rows a selection attends to: what `shaders/common/selection.wgsl` must agree with. @module */

/** A selection whose lists hold positions. */
export interface Picks {
  readonly mode: "dense" | "rows";
  readonly prefix: number;
  /** First row of the window; none: it slides. */
  readonly windowStart?: number;
  readonly windowRows: number;
  /** (KV heads, listed rows) positions */
  readonly picks: readonly (readonly number[])[];
}

/** Positions that a row at `position` attends to in a KV head, in the order of its keys. */
export function attendedReference(selection: Picks, position: number, kvHead: number): number[] {
  const all = Array.from({ length: position + 1 }, (_, p) => p);
  if (selection.mode === "dense") return all;
  const start = selection.windowStart ?? Math.max(0, position + 1 - selection.windowRows);
  return [
    ...all.filter((p) => p < selection.prefix),
    ...selection.picks[kvHead]!,
    ...all.filter((p) => p >= selection.prefix && p >= start),
  ];
}
