import { assert, fc } from "std-testing";
import { PagePool } from "../../src/kv/page_pool.ts";

function pool(numPages = 8, pageSize = 4, numSlots = 3, maxPagesPerSlot = 6): PagePool {
  return new PagePool({ numPages, pageSize, numSlots, maxPagesPerSlot });
}

function table(of: PagePool, slot: number): number[] {
  return [...of.pageTable(slot)];
}

Deno.test("PagePool hands out the lowest pages first and reuses freed ones", () => {
  const pages = pool();
  pages.reserve(0, 5);
  pages.reserve(1, 4);
  pages.reserve(0, 9);
  assert.deepEqual(table(pages, 0), [0, 1, 3]);
  assert.deepEqual(table(pages, 1), [2]);
  pages.release(0);
  pages.reserve(2, 13);
  assert.deepEqual(table(pages, 2), [0, 1, 3, 4]);
  assert.deepEqual(pages.usage, { pageSize: 4, numPages: 8, pagesInUse: 5 });
  pages.checkInvariants();
});

Deno.test("PagePool.reserve() counts what the slot has and never shrinks it", () => {
  const pages = pool();
  pages.reserve(0, 4);
  assert.equal(pages.pageCount(0), 1);
  pages.reserve(0, 4);
  pages.reserve(0, 0);
  assert.equal(pages.pageCount(0), 1);
  pages.reserve(0, 5);
  assert.equal(pages.pageCount(0), 2);
});

Deno.test("PagePool.reserve() refuses what does not fit and changes nothing", () => {
  const pages = pool();
  pages.reserve(0, 20);
  assert.equal(pages.canReserve(1, 12), true);
  assert.equal(pages.canReserve(1, 13), false);
  assert.throws(() => pages.reserve(1, 13), { name: "RangeError", message: /3 of 8 pages/ });
  assert.equal(pages.pageCount(1), 0);
  assert.equal(pages.usage.pagesInUse, 5);
  // Wider than a slot's table, although pages are free.
  pages.release(0);
  assert.equal(pages.canReserve(0, 24), true);
  assert.equal(pages.canReserve(0, 25), false);
});

Deno.test("PagePool.drainChanges() reports the entries that a device table lacks", () => {
  const pages = pool();
  const drain = () => pages.drainChanges().map((c) => ({ ...c, pages: [...c.pages] }));
  assert.deepEqual(drain(), []);
  pages.reserve(0, 5);
  pages.reserve(2, 1);
  assert.deepEqual(drain(), [
    { slot: 0, first: 0, pages: [0, 1] },
    { slot: 2, first: 0, pages: [2] },
  ]);
  assert.deepEqual(drain(), []);
  pages.reserve(0, 9);
  pages.reserve(0, 16);
  assert.deepEqual(drain(), [{ slot: 0, first: 2, pages: [3, 4] }]);
  pages.reserve(2, 5);
  pages.release(2);
  assert.deepEqual(drain(), []);
  pages.reserve(2, 1);
  assert.deepEqual(drain(), [{ slot: 2, first: 0, pages: [2] }]);
});

Deno.test("PagePool refuses slots and sizes that make no sense", () => {
  const pages = pool();
  for (const slot of [-1, 3, 0.5, NaN]) {
    assert.throws(() => pages.reserve(slot, 1), RangeError);
    assert.throws(() => pages.release(slot), RangeError);
  }
  for (const numTokens of [-1, 1.5, NaN]) {
    assert.throws(() => pages.canReserve(0, numTokens), RangeError);
  }
  assert.throws(() => pool(0), RangeError);
  assert.throws(() => pool(8, 2.5), RangeError);
});

Deno.test("PagePool keeps its invariants under any sequence of calls", () => {
  const call = fc.record({
    slot: fc.integer({ min: 0, max: 3 }),
    numTokens: fc.integer({ min: 0, max: 90 }),
    kind: fc.constantFrom("reserve", "reserve", "release", "drain"),
  });
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 20 }),
      fc.array(call, { maxLength: 60 }),
      (numPages, pageSize, maxPagesPerSlot, calls) => {
        const pages = pool(numPages, pageSize, 4, maxPagesPerSlot);
        // What a device table would hold if it applied every drained change.
        const device: number[][] = [[], [], [], []];
        const drain = () => {
          for (const { slot, first, pages: entries } of pages.drainChanges()) {
            assert.ok(first <= device[slot]!.length);
            device[slot] = [...device[slot]!.slice(0, first), ...entries];
          }
        };
        const rows = [0, 0, 0, 0];
        for (const { kind, slot, numTokens } of calls) {
          if (kind === "drain") drain();
          else if (kind === "release") {
            pages.release(slot);
            rows[slot] = 0;
          } else {
            const wanted = Math.ceil(Math.max(numTokens, rows[slot]!) / pageSize);
            const free = numPages - pages.usage.pagesInUse + pages.pageCount(slot);
            const grows = Math.ceil(numTokens / pageSize) > pages.pageCount(slot);
            const fits = !grows || (wanted <= free && wanted <= maxPagesPerSlot);
            assert.equal(pages.canReserve(slot, numTokens), fits);
            const before = table(pages, slot);
            if (fits) {
              pages.reserve(slot, numTokens);
              rows[slot] = Math.max(rows[slot]!, numTokens);
              assert.equal(pages.pageCount(slot), wanted);
            } else assert.throws(() => pages.reserve(slot, numTokens), RangeError);
            // Rows that were written stay where they are.
            assert.deepEqual(table(pages, slot).slice(0, before.length), before);
          }
          pages.checkInvariants();
        }
        drain();
        for (let slot = 0; slot < 4; slot++) {
          assert.deepEqual(device[slot]!.slice(0, pages.pageCount(slot)), table(pages, slot));
          pages.release(slot);
        }
        pages.checkInvariants();
        assert.equal(pages.usage.pagesInUse, 0);
        if (pages.canReserve(0, numPages * pageSize)) {
          pages.reserve(0, numPages * pageSize);
          assert.deepEqual(table(pages, 0), Array.from({ length: numPages }, (_, i) => i));
        }
      },
    ),
    { seed: 11, numRuns: 300 },
  );
});
