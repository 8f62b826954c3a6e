/**
 * Which fetched rows one KV head of one layer has on the device. Plain bookkeeping.
 *
 * A slot holds one row. Rows that are wanted again stay where they are; what gives way is what has
 * not been wanted for longest.
 *
 * @module
 */

/** In {@linkcode Placement.slots}: the row has no slot and must be streamed. */
export const NO_SLOT = -1;

/** Where the wanted rows are, in the order of the question. */
export interface Placement {
  /** Slot of each wanted row, or {@linkcode NO_SLOT}. A view, valid until the next call. */
  readonly slots: Int32Array;
  /** Indices (into the wanted rows) of those that must be fetched into their slots. A view. */
  readonly missing: Uint32Array;
  /** Wanted rows that were there already. */
  readonly numResident: number;
  /** Wanted rows without a slot. */
  readonly numStreamed: number;
}

/** Ages from which on rows count as equally old. */
const OLDEST = 255;

/** Slots that two bytes can tell apart, with a number to spare for none. */
const SMALL_CAPACITY = 0xffff;

/** Memory for the answers of tables that are asked one after the other; it stays in the caches. */
export class PlacementRoom {
  slots = new Int32Array(0);
  missing = new Uint32Array(0);
  /** Slots that give way. */
  victims = new Int32Array(0);

  /** Makes room for so many rows. */
  hold(count: number): void {
    if (this.slots.length >= count) return;
    this.slots = new Int32Array(count * 2);
    this.missing = new Uint32Array(count * 2);
    this.victims = new Int32Array(count * 2);
  }
}

/**
 * Slots of one KV head of one layer. Which rows are there follows no pattern that a processor could
 * guess, and a wrong guess takes it longer than the rest of a row: loops over rows and slots count
 * with signs in place of branches.
 */
export class SlotTable {
  readonly capacity: number;
  /**
   * By position: slot + 1, or 0. Grows with the positions that are asked for. What decides how long a
   * row takes is whether this is in a cache of the processor, hence as few bytes as will do.
   */
  #where: Uint16Array | Uint32Array;
  /** By slot: position, or -1. */
  readonly #holds: Int32Array;
  /**
   * By slot + 1: the call in which it was last wanted; 0 where there is no row, which is older than
   * all. The first entry is written for rows without a slot and never read.
   */
  readonly #lastWanted: Int32Array;
  readonly #room: PlacementRoom;
  readonly #ageCounts = new Uint32Array(OLDEST + 1);
  #call = 0;

  /**
   * @param room Tables that share it must not be asked before the answer of another is used up.
   * @throws {RangeError} If the capacity is no whole number from 0.
   */
  constructor(capacity: number, room = new PlacementRoom()) {
    if (!Number.isSafeInteger(capacity) || capacity < 0) {
      throw new RangeError(`slot table: capacity must be a whole number, not ${capacity}`);
    }
    this.capacity = capacity;
    this.#holds = new Int32Array(capacity).fill(-1);
    this.#lastWanted = new Int32Array(capacity + 1);
    this.#room = room;
    this.#where = this.#positions(1024);
  }

  /** Rows that have a slot. */
  get numHeld(): number {
    let count = 0;
    for (const position of this.#holds) if (position >= 0) count++;
    return count;
  }

  /** Slot of a row, or {@linkcode NO_SLOT}. */
  slotOf(position: number): number {
    return (this.#where[position] ?? 0) - 1;
  }

  /**
   * Gives wanted rows slots, as far as there are any. The caller fetches what is `missing` before
   * anybody reads it.
   *
   * @param wanted (count) distinct positions; from `from` on.
   */
  place(wanted: Uint32Array, from: number, count: number): Placement {
    const call = ++this.#call;
    this.#room.hold(count);
    const { slots, missing, victims } = this.#room;
    const lastWanted = this.#lastWanted;
    let where = this.#where;
    let numMissing = 0;
    for (let i = 0; i < count; i++) {
      const position = wanted[from + i]!;
      if (position >= where.length) where = this.#grow(position);
      const place = where[position]!;
      slots[i] = place - 1;
      lastWanted[place] = call;
      missing[numMissing] = i;
      numMissing += (place - 1) >>> 31;
    }
    const numResident = count - numMissing;
    const numVictims = numMissing === 0 ? 0 : this.#findVictims(numMissing);
    const holds = this.#holds;
    for (let i = 0; i < numVictims; i++) {
      const index = missing[i]!;
      const slot = victims[i]!;
      const old = holds[slot]!;
      if (old >= 0) where[old] = 0;
      const position = wanted[from + index]!;
      holds[slot] = position;
      where[position] = slot + 1;
      lastWanted[slot + 1] = call;
      slots[index] = slot;
    }
    return {
      slots: slots.subarray(0, count),
      missing: missing.subarray(0, numVictims),
      numResident,
      numStreamed: numMissing - numVictims,
    };
  }

  /** Forgets everything: the pages were given away. */
  clear(): void {
    for (let slot = 0; slot < this.capacity; slot++) {
      const position = this.#holds[slot]!;
      if (position >= 0) this.#where[position] = 0;
      this.#holds[slot] = -1;
      this.#lastWanted[slot + 1] = 0;
    }
  }

  /**
   * Checks the bookkeeping; for tests.
   *
   * @throws {Error} If a row has two slots or a slot two rows.
   */
  checkInvariants(): void {
    let count = 0;
    this.#where.forEach((slot, position) => {
      if (slot === 0) return;
      count++;
      if (this.#holds[slot - 1] !== position) {
        throw new Error(`slot table: row ${position} is lost`);
      }
    });
    if (count !== this.numHeld) throw new Error("slot table: a slot holds a row that nobody finds");
  }

  /**
   * Up to `count` slots that this call does not want, those unwanted for longest first; rows of one
   * age in the order of their slots.
   */
  #findVictims(count: number): number {
    const call = this.#call;
    const { capacity } = this;
    const lastWanted = this.#lastWanted;
    const { victims } = this.#room;
    const ages = this.#ageCounts.fill(0);
    for (let i = 1; i <= capacity; i++) ages[Math.min(OLDEST, call - lastWanted[i]!)]!++;
    const wanted = Math.min(count, capacity - ages[0]!);
    if (wanted === 0) return 0;
    // The age from which on all slots give way, and how many of that age itself.
    let left = wanted;
    let limit = OLDEST;
    while (limit > 1 && ages[limit]! < left) left -= ages[limit--]!;
    // As calls: up to the newer one slots are of that age, up to the older one they are older.
    const newer = call - limit;
    const older = limit === OLDEST ? -1 : newer - 1;
    let found = 0;
    let slot = 0;
    for (; left > 0; slot++) {
      const last = lastWanted[slot + 1]!;
      victims[found] = slot;
      found += (last - newer - 1) >>> 31;
      left -= ((last - newer - 1) >>> 31) - ((last - older - 1) >>> 31);
    }
    for (; found < wanted; slot++) {
      victims[found] = slot;
      found += (lastWanted[slot + 1]! - older - 1) >>> 31;
    }
    return found;
  }

  #grow(position: number): Uint16Array | Uint32Array {
    const where = this.#positions(Math.max(position + 1, this.#where.length * 2));
    where.set(this.#where);
    return this.#where = where;
  }

  #positions(count: number): Uint16Array | Uint32Array {
    return this.capacity < SMALL_CAPACITY ? new Uint16Array(count) : new Uint32Array(count);
  }
}
