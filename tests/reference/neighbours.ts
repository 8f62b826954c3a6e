/** Neighbour fetching in plain steps: what `shaders/neighbours.wgsl` must agree with. @module */

/**
 * Chosen rows with those that follow their runs.
 *
 * @param picked Ascending positions.
 * @param end Candidates end before it.
 * @param most Rows in all: twice the budget.
 */
export function neighboursReference(
  picked: readonly number[],
  end: number,
  most: number,
): number[] {
  const wanted = new Set(picked);
  for (let i = 0; i < picked.length;) {
    let run = 1;
    while (picked[i + run] === picked[i]! + run) run++;
    for (let k = 0; k < run; k++) wanted.add(Math.min(picked[i]! + k + run, end - 1));
    i += run;
  }
  const rows = [...wanted].sort((a, b) => a - b).slice(0, most);
  for (let next = (rows.at(-1) ?? end) + 1; next < end && rows.length < most; next++) {
    rows.push(next);
  }
  return rows;
}
