/** The known word that a mistyped one was meant to be. @module */

/** Edits (insert, delete, replace, swap of neighbours) that turn one word into the other. */
export function editDistance(from: string, to: string): number {
  const width = to.length + 1;
  let beforeLast: number[] = [];
  let last = Array.from({ length: width }, (_, column) => column);
  for (let row = 1; row <= from.length; row++) {
    const current = [row];
    for (let column = 1; column < width; column++) {
      const same = from[row - 1] === to[column - 1];
      let best = Math.min(
        last[column]! + 1,
        current[column - 1]! + 1,
        last[column - 1]! + (same ? 0 : 1),
      );
      const swapped = row > 1 && column > 1 && from[row - 1] === to[column - 2] &&
        from[row - 2] === to[column - 1];
      if (swapped) best = Math.min(best, beforeLast[column - 2]! + 1);
      current.push(best);
    }
    beforeLast = last;
    last = current;
  }
  return last[width - 1]!;
}

/**
 * The word of `known` nearest to `word`, or undefined when none is near enough to be a typing
 * error: at most a third of its letters, and at least one, may differ. A word that `word` begins
 * counts as near too (`--temp` for `--temperature`).
 */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  let found: string | undefined;
  let foundDistance = Infinity;
  for (const candidate of known) {
    const begins = word.length >= 3 && candidate.startsWith(word);
    const distance = begins ? 0.5 : editDistance(word, candidate);
    const allowed = Math.max(1, Math.floor(Math.max(word.length, candidate.length) / 3));
    if (distance <= allowed && distance < foundDistance) {
      found = candidate;
      foundDistance = distance;
    }
  }
  return found;
}
