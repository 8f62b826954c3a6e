import { EVICTED, massEvictSpec, massEvictWorkgroups } from "../../src/gpu/ops/mass_evict.ts";
import { type ListCase, listSetup, recipe } from "./_lists.ts";
import { Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

Deno.test("candidates that were not picked are marked, once and for good", async () => {
  using rig = await Rig.create();
  const rows = [[3, 130], [0, 6], [1, 90], [2, 400], [5, 40]]
    .map(([slot, position]) => ({ slot: slot!, position: position! }));
  const recipes = {
    3: recipe("mass", 2, 0, 32, 9),
    0: recipe("mass", 2, 0, 7, 9),
    1: recipe("pages", 2, 0, 6, 9),
    2: recipe("mass", 2, 0, 33, 40),
    5: recipe("mass", 2, 3, 2, 0),
  };
  for (const [lanes, turns, seed] of [[8, 32, 1], [64, 1, 2], [8, 2, 3]] as const) {
    const random = new Random(seed);
    const c: ListCase = { kvHeads: 2, group: 1, rows, recipes, seed, mode: "mass" };
    const setup = listSetup(rig, c, random);
    const { slots, buffers, params } = setup;
    const size = slots * setup.maxPages * 2 * params.importance_quads * 4;
    const before = random.floats(size);
    for (let i = 0; i < size; i += 7) before[i] = EVICTED;
    const want = before.slice();
    const picked = new Uint32Array(slots * 2 * params.list_capacity).fill(0xffffff);
    const counts = new Uint32Array(slots * 2).fill(0xffffff);
    rows.forEach(({ slot }, row) => {
      const { from, to } = setup.candidates[row]!;
      for (let h = 0; h < 2; h++) {
        const all = Array.from({ length: to - from }, (_, i) => from + i);
        const budget = recipes[slot as keyof typeof recipes].budgets[h]!;
        const mine = random.permutation(all.length).slice(0, budget).map((i) => all[i]!)
          .sort((a, b) => a - b);
        picked.set(mine, (slot * 2 + h) * params.list_capacity);
        counts[slot * 2 + h] = mine.length;
        for (const position of all) {
          const page = setup.pageOf(slot, position) * 2 + h;
          const at = page * params.importance_quads * 4 + position % 32;
          if (!mine.includes(position)) want[at] = EVICTED;
        }
      }
    });
    const mass = rig.storage(before);
    const v = { lanes, turns };
    await rig.run([{
      spec: massEvictSpec(v),
      parts: [
        rig.storage(picked),
        rig.storage(counts),
        buffers.pages,
        buffers.rows,
        buffers.recipes,
        mass,
        buffers.params,
      ],
      step: setup.step,
      workgroups: massEvictWorkgroups(v, 2, rows.length, 401),
    }]);
    assert.deepEqual(await rig.floats(mass, size), want, `${lanes} lanes, ${turns} turns`);
  }
});
