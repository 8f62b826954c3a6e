/** The merge loop against one that does what the rule says, one step at a time. */

import { assert, fc } from "std-testing";
import { mergeSymbols } from "../../src/tokenizer/merge.ts";

type Ranks = ReadonlyMap<string, number>;

/** Looks at every pair before every merge. */
function mergeSlowly(symbols: readonly string[], ranks: Ranks): string[] {
  const row = [...symbols];
  while (true) {
    let best = -1;
    for (let i = 0; i + 1 < row.length; i++) {
      const rank = ranks.get(`${row[i]} ${row[i + 1]}`);
      if (rank === undefined) continue;
      if (best < 0 || rank < ranks.get(`${row[best]} ${row[best + 1]}`)!) best = i;
    }
    if (best < 0) return row;
    row.splice(best, 2, `${row[best]}${row[best + 1]}`);
  }
}

function merge(symbols: readonly string[], ranks: Ranks): string[] {
  const row = [...symbols];
  const next = mergeSymbols(
    row.length,
    (left, right) => ranks.get(`${row[left]} ${row[right]}`) ?? -1,
    (left, right) => {
      row[left] += row[right]!;
    },
  );
  const out: string[] = [];
  for (let i = 0; i < row.length; i = next[i]!) out.push(row[i]!);
  return out;
}

Deno.test("mergeSymbols() merges the lowest rank first, leftmost first", () => {
  const ranks = new Map([["a a", 0], ["aa a", 1], ["b c", 2], ["a b", 3]]);
  assert.deepEqual(merge([..."aaabc"], ranks), ["aaa", "bc"]);
  assert.deepEqual(merge([..."aaaa"], ranks), ["aa", "aa"]);
  assert.deepEqual(merge([..."ab"], ranks), ["ab"]);
  assert.deepEqual(merge([], ranks), []);
  assert.deepEqual(merge(["z"], ranks), ["z"]);
});

Deno.test("mergeSymbols() equals the slow way for random merges and rows", () => {
  const symbol = fc.constantFrom("a", "b", "c", "ab", "ba", "aa", "abc", "bc", "ca");
  const pairs = fc.array(fc.tuple(symbol, symbol), { maxLength: 25 });
  const row = fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 40 });
  fc.assert(
    fc.property(pairs, row, (pairs, row) => {
      const ranks = new Map<string, number>();
      for (const [left, right] of pairs) {
        if (!ranks.has(`${left} ${right}`)) ranks.set(`${left} ${right}`, ranks.size);
      }
      assert.deepEqual(merge(row, ranks), mergeSlowly(row, ranks));
    }),
    { numRuns: 1000, seed: 6 },
  );
});

Deno.test("mergeSymbols() equals the slow way where ranks are shared", () => {
  const pairs = fc.array(
    fc.tuple(fc.constantFrom("a", "b", "aa", "ab"), fc.constantFrom("a", "b", "aa"), fc.nat(3)),
    { maxLength: 12 },
  );
  const row = fc.array(fc.constantFrom("a", "b"), { maxLength: 30 });
  fc.assert(
    fc.property(pairs, row, (pairs, row) => {
      const ranks = new Map(pairs.map(([left, right, rank]) => [`${left} ${right}`, rank]));
      assert.deepEqual(merge(row, ranks), mergeSlowly(row, ranks));
    }),
    { numRuns: 1000, seed: 7 },
  );
});
