import { assert } from "std-testing";
import { planHead, stableBlocks } from "../../../src/kv/fetch/fetch_plan.ts";
import { OffloadedRows } from "../../../src/kv/offloaded.ts";
import { SlabPool } from "../../../src/kv/slab_pool.ts";
import { makeStore, SHAPE } from "../store/_store.ts";

const LAYER = 0;

function make(slotPages: number): OffloadedRows {
  const layerSlab = [0, 0, 0];
  const pool = new SlabPool({ layerSlab, slabPages: [90], numSlots: 1, maxBlocks: 16 });
  const set = { prefixBlocks: 1, windowBlocks: 2, slotPages };
  const { store } = makeStore(0, null);
  const rows = new OffloadedRows(pool, 0, [set, set, set], SHAPE.numKvHeads, store.open());
  rows.extend(400);
  return rows;
}

const PICKED = Uint32Array.from({ length: 80 }, (_, i) => 4 * i);
const WANTED = { picked: PICKED, from: 340, windowStart: 352 };

for (const slotPages of [3, 1]) {
  Deno.test(`planHead() writes a list where it is told to, with ${slotPages} pages of slots`, () => {
    const stable = stableBlocks(make(slotPages), LAYER, 400, 0);
    const own = planHead(make(slotPages), LAYER, 1, WANTED, stable);
    const room = new Uint32Array(100);
    const plan = planHead(make(slotPages), LAYER, 1, WANTED, stable, room);
    assert.deepEqual(plan, own);
    assert.equal(plan.list.buffer, room.buffer);
    assert.deepEqual([...room], [...own.list, ...new Array(100 - own.list.length).fill(0)]);
    // 8 of the chosen rows are in the first block, which has its page.
    assert.equal(plan.streamed.length, Math.max(0, 80 - 8 + 12 - slotPages * 32));
  });
}

Deno.test("planHead() leaves the rows that were chosen as they are", () => {
  const rows = make(1);
  const picked = PICKED.slice();
  const wanted = { picked, from: 352, windowStart: 352 };
  const { positions, streamed } = planHead(
    rows,
    LAYER,
    0,
    wanted,
    stableBlocks(rows, LAYER, 400, 0),
  );
  assert.deepEqual(picked, PICKED);
  assert.equal(positions.length + streamed.length, picked.length);
  assert.deepEqual([...positions, ...streamed].sort((a, b) => a - b), [...picked]);
});
