import { assert, fc } from "std-testing";
import { NO_SLOT, type Placement, SlotTable } from "../../../src/kv/fetch/slot_table.ts";

function place(table: SlotTable, wanted: readonly number[]): Placement {
  const words = Uint32Array.from([99, ...wanted]);
  return table.place(words, 1, wanted.length);
}

Deno.test("SlotTable fetches a row once while it is wanted", () => {
  const table = new SlotTable(4);
  let got = place(table, [10, 20, 30]);
  assert.deepEqual([...got.missing], [0, 1, 2]);
  assert.equal(got.numResident, 0);
  got = place(table, [10, 30, 40]);
  assert.deepEqual([...got.missing], [2]);
  assert.equal(got.numResident, 2);
  assert.deepEqual(place(table, [10, 30]).missing.length, 0);
});

Deno.test("SlotTable lets go of what was not wanted for longest", () => {
  const table = new SlotTable(3);
  place(table, [1, 2, 3]);
  place(table, [2, 3]);
  place(table, [3]);
  place(table, [4]);
  assert.equal(table.slotOf(1), NO_SLOT);
  assert.notEqual(table.slotOf(2), NO_SLOT);
  place(table, [5]);
  assert.equal(table.slotOf(2), NO_SLOT);
  assert.notEqual(table.slotOf(3), NO_SLOT);
});

Deno.test("SlotTable streams what has no room and keeps what it has", () => {
  const table = new SlotTable(2);
  place(table, [1, 2]);
  const got = place(table, [1, 2, 3, 4]);
  assert.equal(got.numResident, 2);
  assert.equal(got.numStreamed, 2);
  assert.deepEqual([...got.slots.subarray(2)], [NO_SLOT, NO_SLOT]);
  const none = place(new SlotTable(0), [7]);
  assert.equal(none.numStreamed, 1);
});

Deno.test("SlotTable gives every wanted row one slot, whatever was asked before", () => {
  const wanted = fc.uniqueArray(fc.integer({ min: 0, max: 60 }), { maxLength: 20 });
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 24 }),
      fc.array(wanted, { maxLength: 40 }),
      (size, all) => {
        const table = new SlotTable(size);
        const device = new Map<number, number>();
        for (const rows of all) {
          const { slots, missing, numResident, numStreamed } = place(table, rows);
          for (const index of missing) device.set(slots[index]!, rows[index]!);
          table.checkInvariants();
          const used = rows.map((_, i) => slots[i]!).filter((slot) => slot !== NO_SLOT);
          assert.equal(new Set(used).size, used.length);
          assert.equal(used.length, Math.min(size, rows.length));
          assert.equal(numResident + missing.length + numStreamed, rows.length);
          rows.forEach((row, i) => {
            if (slots[i] !== NO_SLOT) assert.equal(device.get(slots[i]!), row);
          });
        }
      },
    ),
    { numRuns: 300 },
  );
});
