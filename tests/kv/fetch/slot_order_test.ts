import { assert, fc } from "std-testing";
import { NO_SLOT, PlacementRoom, SlotTable } from "../../../src/kv/fetch/slot_table.ts";
import { seededRandom } from "../../_model_files.ts";

/** Calls after which rows count as equally old. */
const OLDEST = 255;

/** The same with maps and sorting. */
class Reference {
  readonly #holds: { position: number; last: number }[];
  #call = 0;

  constructor(capacity: number) {
    this.#holds = Array.from({ length: capacity }, () => ({ position: -1, last: -Infinity }));
  }

  place(wanted: readonly number[]): number[] {
    const call = ++this.#call;
    const slotOf = new Map(this.#holds.map(({ position }, slot) => [position, slot]));
    const slots = wanted.map((position) => slotOf.get(position) ?? NO_SLOT);
    for (const slot of slots) if (slot !== NO_SLOT) this.#holds[slot]!.last = call;
    const age = (slot: number) => Math.min(OLDEST, call - this.#holds[slot]!.last);
    const missing = slots.flatMap((slot, i) => slot === NO_SLOT ? [i] : []);
    // The oldest ones, of equally old ones the first; they are given away in the order of slots.
    const victims = [...this.#holds.keys()].filter((slot) => age(slot) > 0)
      .sort((a, b) => age(b) - age(a) || a - b).slice(0, missing.length).sort((a, b) => a - b);
    victims.forEach((slot, i) => {
      slots[missing[i]!] = slot;
      this.#holds[slot] = { position: wanted[missing[i]!]!, last: call };
    });
    return slots;
  }

  clear(): void {
    for (const slot of this.#holds.keys()) this.#holds[slot] = { position: -1, last: -Infinity };
  }
}

function assertSame(table: SlotTable, reference: Reference, wanted: readonly number[]): void {
  const { slots, missing } = table.place(Uint32Array.from(wanted), 0, wanted.length);
  const before = [...slots];
  assert.deepEqual(before, reference.place(wanted));
  assert.ok(missing.every((i, at) => at === 0 || i > missing[at - 1]!));
  table.checkInvariants();
}

Deno.test("SlotTable gives away the same slots as a plain list of ages", () => {
  const wanted = fc.uniqueArray(fc.integer({ min: 0, max: 40 }), { maxLength: 16 });
  const step = fc.oneof({ weight: 20, arbitrary: wanted }, {
    weight: 1,
    arbitrary: fc.constant(null),
  });
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 24 }), { minLength: 1, maxLength: 3 }),
      fc.array(step, { maxLength: 40 }),
      (capacities, steps) => {
        // Tables that share their room, as those of a sequence do.
        const room = new PlacementRoom();
        const pairs = capacities.map((capacity) =>
          [new SlotTable(capacity, room), new Reference(capacity)] as const
        );
        for (const rows of steps) {
          for (const [table, reference] of pairs) {
            if (rows !== null) assertSame(table, reference, rows);
            else {
              table.clear();
              reference.clear();
            }
          }
        }
      },
    ),
    { numRuns: 300 },
  );
});

Deno.test("SlotTable counts rows as equally old that nobody wanted for long", () => {
  const table = new SlotTable(12);
  const reference = new Reference(12);
  const random = seededRandom(5);
  for (let call = 0; call < 1200; call++) {
    // A few rows again and again, seldom another one, and now and then as many as there are slots.
    const size = call % 300 === 299 ? 12 : 2;
    const far = call % 40 === 0 ? 1000 : 3;
    const rows = new Set<number>();
    while (rows.size < size) rows.add(Math.floor(random() * Math.max(far, size * 2)));
    assertSame(table, reference, [...rows]);
  }
});

Deno.test("SlotTable knows rows far into a sequence, and more slots than two bytes count", () => {
  const capacity = 70_000;
  const table = new SlotTable(capacity);
  const all = Uint32Array.from({ length: capacity }, (_, i) => 2 * i);
  assert.equal(table.place(all, 0, capacity).missing.length, capacity);
  const far = Uint32Array.of(131_071, 2_000_000);
  const { slots, missing } = table.place(far, 0, 2);
  assert.deepEqual([[...missing], [...slots]], [[0, 1], [0, 1]]);
  assert.equal(table.slotOf(2_000_000), 1);
  assert.equal(table.slotOf(139_998), 69_999);
  assert.equal(table.slotOf(0), NO_SLOT);
  table.checkInvariants();
});
