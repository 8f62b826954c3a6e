import { assert, fc } from "std-testing";
import { NO_PAGE, SlabPool } from "../../src/kv/slab_pool.ts";

function pool(slabPages: readonly number[] = [6, 4]): SlabPool {
  return new SlabPool({ layerSlab: [0, 0, 1], slabPages, numSlots: 2, maxBlocks: 8 });
}

Deno.test("SlabPool hands pages out lowest first and reports the tables' changes", () => {
  const p = pool();
  assert.equal(p.map(0, 1, 0), 0);
  assert.equal(p.map(1, 1, 0), 1);
  assert.equal(p.map(0, 1, 3), 2);
  assert.equal(p.map(2, 0, 0), 0);
  const changes = p.drainChanges().map((c) => ({ ...c, pages: [...c.pages] }));
  assert.deepEqual(changes, [
    { layer: 0, slot: 1, first: 0, pages: [0, NO_PAGE, NO_PAGE, 2] },
    { layer: 1, slot: 1, first: 0, pages: [1] },
    { layer: 2, slot: 0, first: 0, pages: [0] },
  ]);
  assert.deepEqual(p.drainChanges(), []);
  p.checkInvariants();
});

Deno.test("SlabPool shares a slab between its layers and no other", () => {
  const p = pool([3, 1]);
  assert.ok(p.hasRoom([2, 1, 1]));
  assert.ok(!p.hasRoom([2, 2, 0]));
  assert.ok(!p.hasRoom([0, 0, 2]));
  for (let block = 0; block < 3; block++) p.map(0, 0, block);
  assert.throws(() => p.map(1, 0, 0), RangeError);
  assert.equal(p.freeFor(2), 1);
  assert.ok(p.couldHave([1, 2, 1]));
  p.unmapSlot(0);
  assert.equal(p.usage.pagesInUse, 0);
  assert.deepEqual(p.drainChanges(), []);
});

Deno.test("SlabPool refuses to map a block twice or to give back what was not taken", () => {
  const p = pool();
  p.map(0, 0, 0);
  assert.throws(() => p.map(0, 0, 0), /mapped twice/);
  assert.throws(() => p.give(0, 5), /was not taken/);
  assert.throws(() => p.map(0, 2, 0), RangeError);
});

Deno.test("SlabPool loses no page and gives none twice, whatever happens", () => {
  const index = (end: number) => fc.integer({ min: 0, max: end - 1 });
  const operation = fc.record({
    kind: fc.constantFrom("map", "unmap", "unmapSlot", "take", "give", "drain"),
    layer: index(3),
    slot: index(2),
    block: index(8),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 300 }), (operations) => {
      const p = pool();
      const mapped = new Map<string, number>();
      const taken: [layer: number, page: number][] = [];
      for (const { kind, layer, slot, block } of operations) {
        const key = `${layer} ${slot} ${block}`;
        if (kind === "map" && !mapped.has(key) && p.freeFor(layer) > 0) {
          mapped.set(key, p.map(layer, slot, block));
        } else if (kind === "unmap") {
          p.unmap(layer, slot, block);
          mapped.delete(key);
        } else if (kind === "unmapSlot") {
          p.unmapSlot(slot);
          for (const name of [...mapped.keys()]) {
            if (name.split(" ")[1] === String(slot)) mapped.delete(name);
          }
        } else if (kind === "take" && p.freeFor(layer) > 0) taken.push([layer, p.take(layer)]);
        else if (kind === "give" && taken.length > 0) p.give(...taken.pop()!);
        else if (kind === "drain") p.drainChanges();
        p.checkInvariants();
        assert.equal(p.usage.pagesInUse, mapped.size + taken.length);
      }
      for (const [key, page] of mapped) {
        const [layer, slot, block] = key.split(" ").map(Number) as [number, number, number];
        assert.equal(p.pageOf(layer, slot, block), page);
      }
    }),
    { numRuns: 200 },
  );
});
