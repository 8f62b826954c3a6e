import { type AttentionVariant, NO_SPLIT } from "../../src/gpu/ops/attention.ts";
import { checkPasses, pairs, type Pass } from "./_passes.ts";
import { Random, Rig } from "./_rig.ts";

type Shape = Omit<AttentionVariant, "queryRows" | "keys"> & { readonly kvHeads: number };

const SHAPES: readonly Shape[] = [
  { form: "lanes", kvHeads: 3, group: 3, headDim: 64, kvType: "f16", lanes: 8, pageSize: 32 },
  { form: "lanes", kvHeads: 2, group: 2, headDim: 32, kvType: "f32", lanes: 8, pageSize: 32 },
  { form: "tiled", kvHeads: 1, group: 1, headDim: 64, kvType: "f32", lanes: 8, pageSize: 32 },
  { form: "tiled", kvHeads: 2, group: 2, headDim: 32, kvType: "f16", lanes: 32, pageSize: 32 },
];

const nameOf = ({ form, headDim, group, kvType }: Shape) =>
  `${form}, heads of ${headDim}, ${group} a kv head, ${kvType}`;

/** Keys in an order of its own, dealt out to `count` passes, some of which get none. */
function deal<T>(random: Random, list: readonly T[], count: number, mixed: boolean): T[][] {
  const order = mixed ? random.permutation(list.length).map((i) => list[i]!) : list;
  const cuts = Array.from({ length: count - 1 }, () => random.int(0, list.length));
  const ends = [0, ...cuts.sort((a, b) => a - b), list.length];
  const parts = ends.slice(1).map((end, i) => order.slice(ends[i], end));
  return random.permutation(count).map((i) => parts[i]!);
}

/** Sequences of one row each, whose keys of all heads come together, or each head's on its own. */
function decodePasses(
  v: AttentionVariant,
  kvHeads: number,
  lengths: readonly number[],
  count: number,
  seed: number,
): Pass[] {
  const random = new Random(seed);
  const selected = v.keys === "rows";
  const dealt = lengths.map((length) => {
    const perHead = Array.from({ length: kvHeads }, () => pairs(random, v, length));
    if (selected) return perHead.map((list) => deal(random, list, count, true));
    const numbers = deal(random, perHead[0]!.map((_, i) => i), count, false);
    return perHead.map((list) => numbers.map((part) => part.map((i) => list[i]!)));
  });
  // A step's rows lie in slots of another order.
  const slots = random.permutation(lengths.length);
  return Array.from({ length: count }, (_, pass) => {
    const staged: Pass["staged"][number][] = [];
    slots.forEach((slot, row) => staged[slot] = dealt[row]!.map((parts) => parts[pass]!));
    const rows = slots.map((slot) => ({
      slot,
      seen: Math.max(...staged[slot]!.map((list) => list.length)),
    }));
    return { staged, rows };
  });
}

/** A chunk of a prompt after `past` rows that come in blocks; its own rows come first or last. */
function promptPasses(
  v: AttentionVariant,
  kvHeads: number,
  sizes: { past: number; block: number; chunk: number; ownFirst: boolean },
  seed: number,
): Pass[] {
  const random = new Random(seed);
  const { past, block, chunk, ownFirst } = sizes;
  const staged = (count: number) => [
    Array.from({ length: kvHeads }, () => pairs(random, v, count)),
  ];
  const all = (seen: (row: number) => number) =>
    Array.from({ length: chunk }, (_, row) => ({ slot: 0, seen: seen(row) }));
  const own: Pass = { staged: staged(chunk), rows: all((row) => row + 1) };
  const blocks: Pass[] = [];
  for (let from = 0; from < past; from += block) {
    const count = Math.min(block, past - from);
    blocks.push({ staged: staged(count), rows: all(() => count) });
  }
  return ownFirst ? [own, ...blocks.toReversed()] : [...blocks, own];
}

for (const shape of SHAPES) {
  const { kvHeads } = shape;
  for (const keys of ["all", "rows"] as const) {
    const what = keys === "all" ? "rows" : "selected rows";
    Deno.test(`passes over ${what} give what one pass gives: ${nameOf(shape)}`, async () => {
      using rig = await Rig.create();
      const v: AttentionVariant = { ...shape, queryRows: 1, keys };
      const split = Math.max(shape.lanes * 4, shape.pageSize);
      const lengths = [3 * split + 5, 1, split, 2 * split - 1];
      for (const count of [1, 2, 5]) {
        const passes = decodePasses(v, kvHeads, lengths, count, 10 + count);
        await checkPasses(rig, v, { kvHeads, split, seed: count, passes });
        await checkPasses(rig, v, {
          kvHeads,
          split,
          seed: count,
          passes: passes.toReversed(),
        });
      }
      const passes = decodePasses(v, kvHeads, lengths, 3, 20);
      await checkPasses(rig, v, { kvHeads, split, seed: 21, passes, finish: false });
    });
  }
}

const QUERIES_SHAPE: (typeof SHAPES)[number] = {
  ...SHAPES[1]!,
  form: "queries",
  lanes: 8,
  pageSize: 32,
};

for (const shape of [...SHAPES.slice(1), QUERIES_SHAPE]) {
  const { kvHeads } = shape;
  Deno.test(`a prompt's chunk attends to earlier rows in blocks: ${nameOf(shape)}`, async () => {
    using rig = await Rig.create();
    // A form that passes keys on by shuffles needs to know the subgroup.
    if (shape.form === "queries" && rig.subgroup !== shape.lanes) return;
    const queryRows = shape.form === "queries" ? shape.lanes : 2;
    const v: AttentionVariant = { ...shape, queryRows };
    for (const [past, block, chunk] of [[150, 64, 9], [32, 32, 1], [0, 32, 6]] as const) {
      for (const ownFirst of [false, true]) {
        const seed = past + Number(ownFirst);
        const passes = promptPasses(v, kvHeads, { past, block, chunk, ownFirst }, seed);
        await checkPasses(rig, v, { kvHeads, split: NO_SPLIT, seed, passes });
      }
    }
  });
}
