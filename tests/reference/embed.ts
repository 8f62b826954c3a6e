/** The embedding in plain steps: what `shaders/embed.wgsl` must agree with. @module */

/** What the row table means by "the token that was sampled last for the slot". */
const SAMPLED_LAST = 0xffffffff;

/**
 * Row of the embedding matrix for each row of a step, `null` for tokens outside the part.
 *
 * @param matrix (rows of the part, cols) unpacked
 * @param rows Token and slot of each row.
 * @param lastTokens Token sampled last for each slot.
 */
export function embedReference(
  matrix: ArrayLike<number>,
  cols: number,
  firstToken: number,
  numTokens: number,
  rows: readonly { readonly token: number; readonly slot: number }[],
  lastTokens: readonly number[],
): (number[] | null)[] {
  return rows.map(({ token, slot }) => {
    const id = token === SAMPLED_LAST ? lastTokens[slot]! : token;
    if (id < firstToken || id >= firstToken + numTokens) return null;
    return Array.from({ length: cols }, (_, k) => matrix[(id - firstToken) * cols + k]!);
  });
}
