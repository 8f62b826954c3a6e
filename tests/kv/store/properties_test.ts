/** Random operations on a store, against lists of parts in memory. */
import { assert, fc } from "std-testing";
import { StoreFullError, StoreReadError } from "../../../src/kv/store/errors.ts";
import type { RowStore } from "../../../src/kv/store/row_store.ts";
import type { StoredSequence } from "../../../src/kv/store/types.ts";
import { MemoryFiles } from "./_memory_files.ts";
import { makePart, makeStore, pickRows, SHAPE, SIZES } from "./_store.ts";

/** What a sequence should hold: for each block, the part of each layer and its rows. */
interface Expected {
  readonly sequence: StoredSequence;
  readonly blocks: { parts: (Uint8Array | null)[]; rows: number[]; fixed: boolean }[];
}

/** An operation; the numbers choose what it is done to. */
type Operation = readonly [name: typeof NAMES[number], a: number, b: number, c: number];

const CALM = [
  "open",
  "put",
  "putBlock",
  "putBlock",
  "park",
  "read",
  "read",
  "stream",
  "linger",
  "gather",
  "gather",
  "truncate",
  "end",
  "offer",
  "offer",
  "adopt",
  "save",
  "restart",
] as const;
const WILD = ["diskFull", "smallSteps", "badRead", "badFile", "noMemory", "heal", "heal"] as const;
const NAMES = [...CALM, ...WILD];

/** A store beside its model. */
class World {
  readonly files = new MemoryFiles();
  readonly #sizes: readonly [number, number | null, boolean];
  store: RowStore;
  warnings: string[] = [];
  all: Expected[] = [];
  /** Prefix names that were offered, with what they stand for. */
  readonly offered = new Map<string, Uint8Array[]>();
  refuse = false;
  #seed = 0;
  #wasFaulty = false;

  constructor(host: number, disk: number | null, saves: boolean) {
    this.#sizes = [host, disk, saves];
    this.store = this.#open();
  }

  /** Whether errors may happen now that are not the caller's. */
  get isFaulty(): boolean {
    const { room, most, shortRead, flip, failing } = this.files.faults;
    return this.refuse || room < Infinity || most < Infinity || shortRead || flip ||
      failing.size > 0;
  }

  heal(): void {
    this.files.heal();
    this.refuse = false;
  }

  do([name, a, b, c]: Operation): void {
    this.#wasFaulty ||= this.isFaulty;
    const one = this.all[a % Math.max(1, this.all.length)];
    if (name === "open" || one === undefined) {
      if (this.all.length < 5) this.all.push({ sequence: this.store.open(), blocks: [] });
    } else if (name === "put") this.#put(one, b % (one.blocks.length + 1), c % SHAPE.numLayers, 32);
    else if (name === "putBlock") this.#putBlock(one, one.blocks.length, 32);
    else if (name === "park") this.#putBlock(one, Math.max(0, one.blocks.length - 1), 1 + c % 32);
    else if (name === "read") this.#read(one, b, 1, c % SHAPE.numLayers);
    else if (name === "stream") this.#read(one, b, 1 + c % 5, c % SHAPE.numLayers);
    else if (name === "gather") this.#gather(one, b, c);
    else if (name === "linger") {
      // Long enough for blocks of others to be taken for unused.
      for (let i = 0; i < 200; i++) this.#read(one, b + i, 1, c % SHAPE.numLayers);
    } else if (name === "truncate") {
      const count = b % (one.blocks.length + 1);
      one.sequence.truncate(count);
      one.blocks.length = count;
    } else if (name === "end") {
      one.sequence[Symbol.dispose]();
      this.all.splice(this.all.indexOf(one), 1);
    } else if (name === "offer") this.#offer(one, b, c);
    else if (name === "adopt") this.#adopt(b, c);
    else if (name === "save") this.store.savePrefixes(c % 3);
    else if (name === "restart") this.#restart(b);
    else if (name === "diskFull") this.files.faults.room = b * 10;
    else if (name === "smallSteps") this.files.faults.most = 1 + b * 7;
    else if (name === "badRead") this.files.faults[b % 2 === 0 ? "flip" : "shortRead"] = true;
    else if (name === "badFile") {
      const operations = ["create", "open", "read", "write", "sync", "rename", "remove", "touch"];
      this.files.faults.failing.add(operations[b % 8] as "create");
    } else if (name === "noMemory") this.refuse = true;
    else this.heal();
  }

  /** Reads everything, and compares. */
  checkAll(): void {
    const out = new Uint8Array(SIZES.part);
    for (const { sequence, blocks } of this.all) {
      assert.equal(sequence.numBlocks, blocks.length);
      blocks.forEach(({ parts, rows }, index) => {
        parts.forEach((part, layer) => {
          if (part === null) return;
          sequence.readPart(index, layer, out, 0);
          assert.deepEqual(out, part);
        });
        assert.equal(sequence.rowsOf(index), Math.min(...rows));
      });
    }
  }

  #open(): RowStore {
    const [host, disk, saves] = this.#sizes;
    const { store, warnings } = makeStore(host, disk, {
      files: this.files,
      prefixDir: saves ? "/prefix" : null,
      prefixBytes: 5 * SIZES.file,
      allocate: (bytes) => {
        if (this.refuse) throw new RangeError("no memory");
        return new ArrayBuffer(bytes);
      },
    });
    this.warnings = warnings;
    return store;
  }

  #restart(b: number): void {
    if (b % 8 !== 0) return;
    this.heal();
    this.store[Symbol.dispose]();
    assert.equal(this.files.numOpen, 0);
    for (const path of this.files.contents.keys()) assert.ok(path.startsWith("/prefix"), path);
    const saved = [...this.files.contents.values()].reduce(
      (sum, each) => sum + each.bytes.length,
      0,
    );
    assert.ok(saved <= 5 * SIZES.file);
    this.all = [];
    this.store = this.#open();
  }

  #put(one: Expected, index: number, layer: number, numRows: number): boolean {
    const part = makePart(this.#seed++);
    const isNew = index === one.blocks.length;
    if (one.blocks[index]?.fixed) {
      // A block that could not be read is nobody else's from then on.
      if (this.#wasFaulty) return false;
      assert.throws(() => one.sequence.putPart(index, layer, part, numRows), /is shared/);
      return false;
    }
    const fits = this.store.canGrow(1);
    try {
      one.sequence.putPart(index, layer, part, numRows);
    } catch (error) {
      assert.ok(error instanceof StoreFullError, String(error));
      assert.ok(this.isFaulty || (isNew && !fits), "a put failed without cause");
      return false;
    }
    assert.ok(!isNew || fits, "a put worked without room");
    if (isNew) {
      const none = Array.from({ length: SHAPE.numLayers }, () => null);
      one.blocks.push({ parts: none, rows: none.map(() => 0), fixed: false });
    }
    one.blocks[index]!.parts[layer] = part;
    one.blocks[index]!.rows[layer] = numRows;
    return true;
  }

  #putBlock(one: Expected, index: number, numRows: number): void {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      if (!this.#put(one, index, layer, numRows)) return;
    }
  }

  #read(one: Expected, b: number, most: number, layer: number): void {
    const first = b % Math.max(1, one.blocks.length);
    const wanted = one.blocks.slice(first, first + most).map(({ parts }) => parts[layer]);
    if (wanted.length === 0 || wanted.some((part) => part === null)) return;
    const out = new Uint8Array(wanted.length * SIZES.part);
    if (!this.#reads(() => one.sequence.readParts(first, wanted.length, layer, out, 0))) return;
    wanted.forEach((part, i) => {
      assert.deepEqual(out.slice(i * SIZES.part, (i + 1) * SIZES.part), part);
    });
  }

  #gather(one: Expected, b: number, c: number): void {
    const layer = b % SHAPE.numLayers;
    const head = c % SHAPE.numKvHeads;
    const positions: number[] = [];
    one.blocks.forEach(({ rows }, index) => {
      for (let row = (b * 7 + index) % 5; row < rows[layer]!; row += 1 + (c + index) % 13) {
        positions.push(index * 32 + row);
      }
    });
    const count = positions.length;
    const out = new Uint8Array(count * 2 * SIZES.row);
    const at = Uint32Array.from(positions);
    if (!this.#reads(() => one.sequence.gather(layer, head, at, 0, count, out, 0))) return;
    const parts = one.blocks.map(({ parts }) => parts[layer] ?? new Uint8Array(SIZES.part));
    assert.deepEqual(out, pickRows(parts, head, positions));
  }

  #reads(action: () => void): boolean {
    try {
      action();
      return true;
    } catch (error) {
      assert.ok(error instanceof StoreReadError, String(error));
      assert.ok(this.isFaulty, `a read failed without cause: ${error}`);
      return false;
    }
  }

  #offer(one: Expected, b: number, c: number): void {
    const index = b % Math.max(1, one.blocks.length);
    const block = one.blocks[index];
    if (block === undefined || block.fixed || block.rows.some((rows) => rows !== 32)) return;
    const key = this.store.prefixKeys(Array.from({ length: 32 }, () => this.#seed))[0]!;
    this.#seed++;
    this.store.offerPrefix(key, one.sequence, index, c % 2 ? undefined : block.parts[0]!);
    this.offered.set(key, block.parts.map((part) => part!));
    block.fixed = true;
  }

  #adopt(b: number, c: number): void {
    const known = [...this.offered.keys()];
    const keys = known.slice(b % Math.max(1, known.length)).slice(0, 1 + c % 4);
    if (this.all.length >= 5 || keys.length === 0) return;
    const count = this.store.countPrefix(keys);
    const fits = this.store.canGrow(keys.length);
    const sequence = this.store.adoptPrefix(keys);
    // Blocks that make way while others are loaded may drive them out of a full folder.
    const mayMiss = this.isFaulty || !fits || this.#sizes[2];
    assert.ok(mayMiss || sequence.numBlocks === count, "a prefix was not found");
    const blocks = keys.slice(0, sequence.numBlocks).map((key, index) => {
      const parts = this.offered.get(key)!;
      const extras = sequence.extras(index);
      if (extras !== null) assert.deepEqual(extras, parts[0]);
      return { parts, rows: parts.map(() => 32), fixed: true };
    });
    this.all.push({ sequence, blocks });
  }
}

function runWorld(names: readonly Operation[0][], numRuns: number): void {
  const number = fc.nat(999);
  const operation = fc.tuple(fc.constantFrom(...names), number, number, number);
  fc.assert(
    fc.property(
      fc.nat(6),
      fc.option(fc.nat(8)),
      fc.boolean(),
      fc.array(operation, { minLength: 40, maxLength: 160, size: "max" }),
      (host, disk, saves, operations) => {
        const world = new World(host, disk, saves);
        for (const each of operations) {
          world.do(each);
          world.store.checkInvariants();
          const { usage } = world.store;
          const held = new Set(world.all.flatMap(({ blocks }) => blocks)).size;
          assert.ok(usage.numBlocks <= held);
          assert.ok(usage.hostBytes <= host * SIZES.block);
          assert.ok(usage.diskBytes <= (disk ?? 0) * SIZES.file);
        }
        world.heal();
        world.checkAll();
        for (const { sequence } of world.all) sequence[Symbol.dispose]();
        world.store.checkInvariants();
        assert.equal(world.store.usage.numBlocks, 0);
        world.store[Symbol.dispose]();
        assert.equal(world.files.numOpen, 0);
        for (const path of world.files.contents.keys()) assert.ok(path.startsWith("/prefix/"));
      },
    ),
    { numRuns },
  );
}

Deno.test("property: every read gives what was put, whatever the tiers do", () => {
  runWorld(CALM, 300);
});

Deno.test("property: faults are errors of one call, and change nothing", () => {
  runWorld(NAMES, 900);
});
