/** Attention whose keys come in several passes through a staging buffer. */
import {
  attentionMergeSpec,
  attentionParams,
  attentionSpec,
  type AttentionVariant,
  attentionWorkgroups,
  partialStride,
} from "../../src/gpu/ops/attention.ts";
import { NO_ROWS, packSelection, selectionStride, SLIDING } from "../../src/gpu/ops/selection.ts";
import { floatToHalf, halfToFloat } from "../../src/model/quants.ts";
import {
  attentionReference,
  joinReference,
  logSum,
  partialReference,
  type PartialResult,
} from "../reference/attention.ts";
import { BOUNDS } from "./_attention.ts";
import { packCache } from "./_cache.ts";
import { assertClose, type Call, Random, type Rig, untouched } from "./_rig.ts";

/** A key and its value. */
interface Pair {
  readonly key: number[];
  readonly value: number[];
}

/**
 * What a pass brings: for each slot and KV head, its keys; for each row, its slot and how many keys of
 * it the row may see (with selected keys: all or none).
 */
export interface Pass {
  readonly staged: readonly (readonly (readonly Pair[])[])[];
  readonly rows: readonly { readonly slot: number; readonly seen: number }[];
}

/** Makes keys and values as the cache type can hold them. */
export function pairs(random: Random, v: AttentionVariant, count: number): Pair[] {
  const round = (x: number) => v.kvType === "f16" ? halfToFloat(floatToHalf(x)) : x;
  const vector = () => Array.from(random.floats(v.headDim, 1.5), round);
  return Array.from({ length: count }, () => ({ key: vector(), value: vector() }));
}

/**
 * Runs the passes, one after the other, and compares outputs and logarithms of sums with one pass over
 * everything; without the last of them, the running state.
 */
export async function checkPasses(
  rig: Rig,
  v: AttentionVariant,
  c: { kvHeads: number; split: number; seed: number; passes: readonly Pass[]; finish?: boolean },
): Promise<void> {
  const { kvHeads, split, passes, finish = true } = c;
  const { headDim, group } = v;
  const selected = v.keys === "rows";
  const heads = kvHeads * group;
  const numRows = passes[0]!.rows.length;
  const random = new Random(c.seed);
  const stride = partialStride(headDim);
  const rowSize = (heads + 2 * kvHeads) * headDim;
  const qkv = random.floats(numRows * rowSize);
  const longest = Math.max(1, ...passes.flatMap((pass) => pass.staged.flat().map((l) => l.length)));
  const maxSplits = Math.ceil(longest / split);
  const queries = rig.storage(qkv);
  const out = rig.storage(untouched(numRows * heads * headDim));
  const lse = rig.storage(untouched(numRows * heads));
  const partial = rig.storage(untouched(numRows * heads * maxSplits * stride));
  // What the state was before the first pass must not matter.
  const carry = rig.storage(new Float32Array(numRows * heads * stride).fill(NaN));

  const calls: Call[] = passes.flatMap((pass, number) => {
    const slots = pass.staged.length;
    const maxPages = Math.ceil(longest / v.pageSize);
    const cells = [0, 1].map(() =>
      new Float32Array(slots * maxPages * kvHeads * v.pageSize * headDim).fill(NaN)
    );
    const capacity = longest;
    const selectionSize = selectionStride(kvHeads, capacity);
    const selection = new Uint32Array(slots * selectionSize);
    pass.staged.forEach((lists, slot) => {
      lists.forEach((list, h) =>
        list.forEach(({ key, value }, i) => {
          const page = slot * maxPages + Math.floor(i / v.pageSize);
          const cell = ((page * kvHeads + h) * v.pageSize + i % v.pageSize) * headDim;
          cells[0]!.set(key, cell);
          cells[1]!.set(value, cell);
        })
      );
      const first = slot * maxPages * v.pageSize;
      const ids = lists.map((list) => list.map((_, i) => first + i));
      const window = { prefix: 0, windowStart: SLIDING, windowRows: 0 };
      packSelection({ mode: "rows", ...window, lists: ids }, slot, capacity, selection);
    });
    const table = pass.rows.flatMap(({ slot, seen }) => [
      0,
      slot,
      seen === 0 || selected ? NO_ROWS : seen - 1,
      0,
    ]);
    const rows = rig.storage(Uint32Array.from(table));
    const params = rig.uniform(attentionParams({
      numHeads: heads,
      numKvHeads: kvHeads,
      maxPages,
      maxSplits,
      splitKeys: split,
      partialOnly: true,
      selectionStride: selectionSize,
      listCapacity: capacity,
      firstPass: number === 0,
      lastPass: finish && number === passes.length - 1,
    }));
    const lists = selected ? [rig.storage(selection)] : [];
    const identity = Uint32Array.from({ length: slots * maxPages }, (_, page) => page);
    const step = { num_rows: numRows, num_splits: maxSplits };
    return [{
      spec: attentionSpec(v),
      parts: [
        queries,
        ...cells.map((values) => rig.storage(packCache(v.kvType, values))),
        rig.storage(identity),
        rows,
        out,
        partial,
        ...lists,
        params,
      ],
      step,
      workgroups: attentionWorkgroups(v, kvHeads, numRows, maxSplits),
    }, {
      spec: attentionMergeSpec({ headDim, lanes: 8, selection: selected, carry: true, lse: true }),
      parts: [partial, rows, ...lists, out, carry, lse, params],
      step,
      workgroups: numRows * heads,
    }];
  });
  await rig.run(calls);

  const wantOut: (number | null)[] = [];
  const wantLse: (number | null)[] = [];
  const wantState: (number | null)[] = [];
  for (let row = 0; row < numRows; row++) {
    for (let head = 0; head < heads; head++) {
      const at = row * rowSize + head * headDim;
      const query = Array.from(qkv.subarray(at, at + headDim));
      const parts = passes.map(({ staged, rows }) => {
        const { slot, seen } = rows[row]!;
        const list = staged[slot]![Math.floor(head / group)]!;
        return seen === 0 ? [] : list.slice(0, selected ? list.length : seen);
      });
      const all = parts.flat();
      const result = parts.map((list) =>
        partialReference(query, list.map((p) => p.key), list.map((p) => p.value))
      ).reduce<PartialResult | undefined>((a, b) => a ? joinReference(a, b) : b, undefined)!;
      wantState.push(...result.sums, result.maximum, result.normaliser, 0, 0);
      wantLse.push(logSum(result));
      wantOut.push(
        ...attentionReference(query, all.map((p) => p.key), all.map((p) => p.value)),
      );
    }
  }
  const where = `${attentionSpec(v).variant}, ${passes.length} passes, seed ${c.seed}`;
  if (finish) {
    assertClose(await rig.floats(out, wantOut.length), wantOut, BOUNDS, where);
    assertClose(await rig.floats(lse, wantLse.length), wantLse, BOUNDS, `${where}, lse`);
  } else {
    const got = await rig.floats(carry, wantState.length);
    assertClose(got, wantState, BOUNDS, `${where}, state`);
    const left = await rig.floats(out, wantOut.length);
    if (left.some((x) => x !== untouched(1)[0])) throw new Error(`${where}: out was written`);
  }
}
