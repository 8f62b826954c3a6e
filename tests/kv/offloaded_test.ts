import { assert, fc } from "std-testing";
import { OffloadedRows } from "../../src/kv/offloaded.ts";
import { BLOCK_ROWS, NO_PAGE, SlabPool } from "../../src/kv/slab_pool.ts";
import { type LayerSet, pagesOf } from "../../src/kv/working_set.ts";
import { makeStore, SHAPE } from "./store/_store.ts";

const NUM_LAYERS = SHAPE.numLayers;

function make(sets: readonly LayerSet[], slabPages: readonly number[] = [40, 20]) {
  const { store } = makeStore(20, null);
  const pool = new SlabPool({ layerSlab: [0, 0, 1], slabPages, numSlots: 2, maxBlocks: 16 });
  const rows = new OffloadedRows(pool, 1, sets, SHAPE.numKvHeads, store.open());
  return { pool, rows, store };
}

const set = (prefixBlocks: number, windowBlocks: number, slotPages: number): LayerSet => ({
  prefixBlocks,
  windowBlocks,
  slotPages,
});

Deno.test("SlabPool moves blocks in and out of pages that were taken", () => {
  const pool = new SlabPool({ layerSlab: [0, 1], slabPages: [3, 3], numSlots: 2, maxBlocks: 4 });
  const page = pool.take(1);
  pool.place(1, 0, 3, page);
  assert.equal(pool.pageOf(1, 0, 3), page);
  assert.equal(pool.mappedCount(1, 0), 1);
  pool.checkInvariants();
  assert.throws(() => pool.place(1, 0, 2, page), /was not taken/);
  assert.throws(() => pool.place(0, 0, 2, page), /was not taken/);
  assert.throws(() => pool.displace(1, 0, 2), /without a page/);
  assert.equal(pool.displace(1, 0, 3), page);
  assert.equal(pool.pageOf(1, 0, 3), NO_PAGE);
  assert.equal(pool.usage.pagesInUse, 1);
  pool.checkInvariants();
  pool.give(1, page);
  assert.equal(pool.usage.pagesInUse, 0);
  const other = pool.take(0);
  pool.map(0, 1, 0);
  assert.throws(() => pool.place(0, 1, 0, other), /mapped twice/);
});

Deno.test("OffloadedRows keeps the first and the newest blocks", () => {
  const { pool, rows } = make([set(1, 2, 1), set(3, 1, 0), set(0, 2, 0)]);
  const mapped = (layer: number) =>
    Array.from({ length: 16 }, (_, block) => block)
      .filter((block) => rows.pageOf(layer, block) !== NO_PAGE);
  rows.extend(40);
  assert.deepEqual([0, 1, 2].map(mapped), [[0, 1], [0, 1], [0, 1]]);
  assert.deepEqual(rows.spans(0), { prefix: 32, windowStart: 32 });
  assert.deepEqual(rows.spans(2), { prefix: 0, windowStart: 0 });
  rows.extend(5 * 32 + 1);
  assert.deepEqual([0, 1, 2].map(mapped), [[0, 4, 5], [0, 1, 2, 5], [4, 5]]);
  assert.deepEqual(rows.spans(0), { prefix: 32, windowStart: 128 });
  assert.deepEqual(rows.spans(1), { prefix: 96, windowStart: 160 });
  pool.checkInvariants();
  rows.clear();
  assert.deepEqual([0, 1, 2].map(mapped), [[], [], []]);
  assert.equal(pool.usage.pagesInUse, rows.numPages);
  rows.extend(10);
  assert.deepEqual([0, 1, 2].map(mapped), [[0], [0], [0]]);
  rows[Symbol.dispose]();
  assert.equal(pool.usage.pagesInUse, 0);
});

Deno.test("OffloadedRows takes nothing where there is no room", () => {
  const { store } = makeStore(4, null);
  const pool = new SlabPool({ layerSlab: [0], slabPages: [3], numSlots: 1, maxBlocks: 8 });
  assert.throws(() => new OffloadedRows(pool, 0, [set(1, 2, 1)], 1, store.open()), RangeError);
  assert.equal(pool.usage.pagesInUse, 0);
  pool.checkInvariants();
});

Deno.test("OffloadedRows has slots on pages of its own, for each KV head the same rows", () => {
  const { rows } = make([set(1, 1, 2), set(1, 1, 1), set(1, 1, 0)]);
  rows.extend(400);
  const places = Array.from({ length: 64 }, (_, slot) => rows.rowOfSlot(0, slot));
  assert.equal(new Set(places).size, 64);
  const blocks = new Set([0, 12].map((block) => rows.pageOf(0, block)));
  for (const row of places) assert.ok(!blocks.has(Math.floor(row / BLOCK_ROWS)));
  assert.equal(rows.slots(0, 2).capacity, 64);
  assert.equal(rows.slots(2, 0).capacity, 0);
});

Deno.test("OffloadedRows balances its pages and says what is there, for any lengths", () => {
  const anySet = fc.tuple(
    fc.integer({ min: 0, max: 5 }),
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 0, max: 3 }),
  ).map(([prefix, window, slots]) => set(prefix, window, slots));
  const lengths = fc.array(fc.integer({ min: 1, max: 16 * 32 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(
      fc.tuple(anySet, anySet, anySet),
      fc.array(lengths, { minLength: 1, maxLength: 4 }),
      (sets, runs) => {
        const { pool, rows, store } = make(sets);
        const numPages = sets.reduce((sum, each) => sum + pagesOf(each), 0);
        for (const run of runs) {
          // Prefill in chunks of any size, then token by token.
          const sorted = [...run].sort((a, b) => a - b);
          const last = sorted.at(-1)!;
          for (let n = last + 1; n <= Math.min(last + 40, 16 * 32); n++) sorted.push(n);
          for (const n of sorted) {
            const before = sets.map((_, layer) =>
              Array.from({ length: 16 }, (_, block) => rows.pageOf(layer, block))
            );
            rows.extend(n);
            const blocks = Math.ceil(n / BLOCK_ROWS);
            assert.equal(pool.usage.pagesInUse, numPages);
            for (let layer = 0; layer < NUM_LAYERS; layer++) {
              const { prefixBlocks, windowBlocks } = sets[layer]!;
              const { prefix, windowStart } = rows.spans(layer);
              assert.ok(prefix <= windowStart && windowStart <= n);
              assert.ok(prefix >= Math.min(n, prefixBlocks * BLOCK_ROWS) || prefix === windowStart);
              assert.ok(windowStart <= Math.max(prefix, (blocks - windowBlocks) * BLOCK_ROWS));
              for (let block = 0; block < 16; block++) {
                const kept = block < blocks &&
                  (block < prefixBlocks || block >= blocks - windowBlocks);
                const page = rows.pageOf(layer, block);
                assert.equal(page !== NO_PAGE, kept, `layer ${layer}, block ${block} of ${n}`);
                const first = block * BLOCK_ROWS;
                const end = Math.min(n, first + BLOCK_ROWS);
                if (first < n) {
                  assert.equal(end <= prefix || first >= windowStart, kept, "spans are wrong");
                }
                // A block that stays does not move: its rows are not written again.
                const old = before[layer]![block]!;
                if (kept && old !== NO_PAGE) assert.equal(page, old);
              }
            }
          }
          pool.checkInvariants();
          rows.clear();
          pool.checkInvariants();
          assert.equal(pool.usage.pagesInUse, numPages);
        }
        rows.extend(100);
        rows[Symbol.dispose]();
        assert.equal(pool.usage.pagesInUse, 0);
        pool.checkInvariants();
        store.checkInvariants();
      },
    ),
    { numRuns: 150 },
  );
});
