/** Neighbour fetching, for what is measured of a predictor. @module */

/**
 * Chosen rows with those that follow their runs: a run of c brings the c after it, as far as there
 * are candidates and room.
 *
 * @param chosen Positions in any order.
 * @param end Candidates end before it.
 * @param most Rows in all.
 * @returns Rising; what is left of `most` is filled with the positions after the last one.
 */
export function withNeighbours(chosen: Iterable<number>, end: number, most: number): Set<number> {
  const rising = [...chosen].sort((a, b) => a - b);
  const rows = new Set<number>();
  const add = (from: number, to: number) => {
    for (let at = from; at < Math.min(to, end) && rows.size < most; at++) rows.add(at);
  };
  let last = 0;
  for (let i = 0; i < rising.length;) {
    const first = rising[i]!;
    let run = 1;
    while (rising[i + run] === first + run) run++;
    last = Math.max(last, first + 2 * run);
    add(first, first + 2 * run);
    i += run;
  }
  if (rising.length > 0) add(last, end);
  return rows;
}
