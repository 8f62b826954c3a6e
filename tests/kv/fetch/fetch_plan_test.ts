import { assert, fc } from "std-testing";
import {
  type HeadPlan,
  lastingBlocks,
  planHead,
  stableBlocks,
} from "../../../src/kv/fetch/fetch_plan.ts";
import { OffloadedRows } from "../../../src/kv/offloaded.ts";
import { BLOCK_ROWS, NO_PAGE, SlabPool } from "../../../src/kv/slab_pool.ts";
import type { LayerSet } from "../../../src/kv/working_set.ts";
import { makeStore, SHAPE } from "../store/_store.ts";
import { seededRandom } from "../../_model_files.ts";

const LAYER = 1;
const MAX_BLOCKS = 24;

/** A device that remembers which position each of its rows holds, by KV head. */
class Simulated {
  readonly rows: OffloadedRows;
  readonly pool: SlabPool;
  readonly #memory: Int32Array[];
  n = 0;

  constructor(set: LayerSet) {
    const layerSlab = [0, 0, 0];
    this.pool = new SlabPool({ layerSlab, slabPages: [200], numSlots: 1, maxBlocks: MAX_BLOCKS });
    const { store } = makeStore(0, null);
    const sets = layerSlab.map(() => set);
    this.rows = new OffloadedRows(this.pool, 0, sets, SHAPE.numKvHeads, store.open());
    this.#memory = Array.from({ length: 3 }, () => new Int32Array(200 * BLOCK_ROWS).fill(-1));
  }

  /** Rows up to `n` are made, and written where they have pages. */
  grow(n: number): void {
    const first = this.n;
    this.n = n;
    this.rows.extend(n);
    for (let position = first; position < n; position++) {
      const row = this.pageRow(position);
      if (row !== null) { for (const memory of this.#memory) memory[row] = position; }
    }
  }

  pageRow(position: number): number | null {
    const page = this.rows.pageOf(LAYER, Math.floor(position / BLOCK_ROWS));
    return page === NO_PAGE ? null : page * BLOCK_ROWS + position % BLOCK_ROWS;
  }

  fetch(head: number, { missing, targets }: HeadPlan): void {
    missing.forEach((position, i) => this.#memory[head]![targets[i]!] = position);
  }

  holds(head: number, row: number): number {
    return this.#memory[head]![row]!;
  }
}

const anySet = fc.tuple(
  fc.integer({ min: 0, max: 3 }),
  fc.integer({ min: 2, max: 4 }),
  fc.integer({ min: 0, max: 3 }),
).map(([prefixBlocks, windowBlocks, slotPages]) => ({ prefixBlocks, windowBlocks, slotPages }));

Deno.test("planHead() has every wanted row once, and the device has what its list names", () => {
  const scenario = fc.record({
    set: anySet,
    interval: fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 90 })),
    start: fc.integer({ min: 40, max: 600 }),
    sinks: fc.integer({ min: 0, max: 96 }),
    window: fc.integer({ min: 1, max: 32 }),
    selections: fc.array(
      fc.record({ seed: fc.nat(), count: fc.integer({ min: 0, max: 80 }) }),
      { minLength: 3, maxLength: 25 },
    ),
  });
  let streamedRows = 0;
  let residentRows = 0;
  let again = 0;
  fc.assert(
    fc.property(scenario, ({ set, interval, start, sinks, window, selections }) => {
      // Sinks have pages, and the window has some wherever it begins.
      const prefix = Math.min(sinks, set.prefixBlocks * BLOCK_ROWS);
      const device = new Simulated(set);
      device.grow(start);
      for (const { seed, count } of selections) {
        if (device.n + interval > MAX_BLOCKS * BLOCK_ROWS) break;
        device.grow(device.n + 1);
        const from = Math.max(prefix, device.n - window);
        const chosen = [0, 1, 2].map((head) => {
          // Heads choose differently, and old rows again and again.
          const random = seededRandom(seed + head);
          const some = Array.from(
            { length: count },
            (_, i) => prefix + Math.floor(random() * (i % 2 === 0 ? from - prefix : 40)),
          );
          return [...new Set(some)].filter((position) => position < from).sort((a, b) => a - b);
        });
        const place = () => {
          const { n } = device;
          const stable = lastingBlocks(device.rows, LAYER, n, interval - 1);
          const windowStart = Math.min(n, Math.max(from, stable * BLOCK_ROWS));
          const lists = chosen.map((picked, head) => {
            const wanted = [...picked];
            for (let row = from; row < windowStart; row++) wanted.push(row);
            const rows = { picked: Uint32Array.from(picked), from, windowStart };
            const plan = planHead(device.rows, LAYER, head, rows, stable);
            device.rows.slots(LAYER, head).checkInvariants();
            device.fetch(head, plan);
            const { list, missing, streamed } = plan;
            assert.equal(list.length + streamed.length, wanted.length);
            const isStreamed = new Set(streamed);
            assert.equal(isStreamed.size, streamed.length);
            const listed = wanted.filter((position) => !isStreamed.has(position));
            // Nothing that keeps its page is fetched, streamed, or in a slot; what is not whole
            // since the step before cannot be.
            for (const position of [...missing, ...streamed]) {
              const block = Math.floor(position / BLOCK_ROWS);
              assert.ok(block >= set.prefixBlocks && block < stable, `row ${position} has a page`);
              assert.ok((block + 1) * BLOCK_ROWS < n, `row ${position} is not stored yet`);
            }
            if (set.slotPages * BLOCK_ROWS >= wanted.length) assert.equal(streamed.length, 0);
            streamedRows += streamed.length;
            residentRows += listed.length - missing.length;
            return { list, listed };
          });
          return { stable, windowStart, lists };
        };
        let placed = place();
        // Until the next selection the lists stay as they are, while rows come, unless one of their
        // blocks gives way.
        const { n } = device;
        for (let step = 0; step < interval; step++) {
          if (step > 0) device.grow(device.n + 1);
          if (stableBlocks(device.rows, LAYER, device.n, 0) > placed.stable) {
            placed = place();
            again++;
          }
          const { windowStart, lists } = placed;
          lists.forEach(({ list, listed }, head) => {
            listed.forEach((position, i) =>
              assert.equal(
                device.holds(head, list[i]!),
                position,
                `head ${head}, ${step} steps after the selection at ${n}`,
              )
            );
            for (let position = 0; position < prefix && position < n; position++) {
              assert.equal(device.holds(head, device.pageRow(position)!), position);
            }
            for (let position = windowStart; position < device.n; position++) {
              assert.equal(device.holds(head, device.pageRow(position)!), position);
            }
          });
        }
        device.pool.checkInvariants();
      }
    }),
    { numRuns: 400 },
  );
  assert.ok(streamedRows > 1000, `only ${streamedRows} rows had no slot`);
  assert.ok(residentRows > 1000, `only ${residentRows} rows were there`);
  assert.ok(again > 100, `only ${again} times lists were made again`);
});

Deno.test("stableBlocks() counts what keeps its page for the steps to come", () => {
  const device = new Simulated({ prefixBlocks: 1, windowBlocks: 2, slotPages: 1 });
  device.grow(128);
  const stable = (steps: number) => stableBlocks(device.rows, LAYER, 128, steps);
  // Blocks 2 and 3 are there; the next row displaces block 2.
  assert.equal(stable(0), 2);
  assert.equal(stable(1), 3);
  assert.equal(stable(32), 3);
  assert.equal(stable(33), 4);
});
