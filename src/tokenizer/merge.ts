/**
 * The merge loop that BPE and SentencePiece share: of all neighbouring pairs the one of lowest rank
 * is merged first, leftmost first among equals, until no pair can merge. A heap keeps it at
 * O(n log n), so that a text without a single space cannot stall the program.
 *
 * @module
 */

/** A min-heap of numbers. */
class NumberHeap {
  readonly #items: number[] = [];

  push(value: number): void {
    const items = this.#items;
    let at = items.length;
    items.push(value);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = items[parent]!;
      if (above <= value) break;
      items[at] = above;
      at = parent;
    }
    items[at] = value;
  }

  /** The smallest number, or -1 when the heap is empty. */
  pop(): number {
    const items = this.#items;
    const last = items.pop();
    if (last === undefined) return -1;
    const size = items.length;
    if (size === 0) return last;
    const smallest = items[0]!;
    let at = 0;
    while (true) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && items[child + 1]! < items[child]!) child++;
      const below = items[child]!;
      if (below >= last) break;
      items[at] = below;
      at = child;
    }
    items[at] = last;
    return smallest;
  }
}

/**
 * Merges `count` symbols that stand in a row.
 *
 * @param rank Rank of the merge of the symbols at two neighbouring positions, or -1 for none. An
 *   integer below 2^26.
 * @param merge Called when two symbols merge; the merged one stands at the left position.
 * @returns For each position the position of the symbol after it, or `count` at the end. Start at 0.
 */
export function mergeSymbols(
  count: number,
  rank: (left: number, right: number) => number,
  merge: (left: number, right: number) => void,
): Int32Array {
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  const alive = new Uint8Array(count).fill(1);
  const heap = new NumberHeap();
  // One number carries rank and position, which orders the heap as the merges must be ordered.
  const propose = (left: number, right: number) => {
    const value = rank(left, right);
    if (value >= 0) heap.push(value * count + left);
  };
  for (let i = 0; i < count; i++) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  for (let i = 0; i + 1 < count; i++) propose(i, i + 1);

  for (let key = heap.pop(); key >= 0; key = heap.pop()) {
    const left = key % count;
    const right = next[left]!;
    // Proposals are not withdrawn when a neighbour changes; they are recognised here instead.
    if (alive[left] === 0 || right >= count) continue;
    if (rank(left, right) !== (key - left) / count) continue;
    merge(left, right);
    alive[right] = 0;
    const after = next[right]!;
    next[left] = after;
    if (after < count) {
      previous[after] = left;
      propose(left, after);
    }
    const before = previous[left]!;
    if (before >= 0) propose(before, left);
  }
  return next;
}
