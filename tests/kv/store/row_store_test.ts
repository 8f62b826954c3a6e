import { assert } from "std-testing";
import { BLOCK_ROWS, type StoredSequence } from "../../../src/kv/store/types.ts";
import { MemoryFiles } from "./_memory_files.ts";
import { makePart, makeStore, pickRows, SHAPE, SIZES } from "./_store.ts";

function putBlock(sequence: StoredSequence, index: number, seed: number, numRows?: number): void {
  for (let layer = 0; layer < SHAPE.numLayers; layer++) {
    sequence.putPart(index, layer, makePart(seed * 100 + index * 10 + layer), numRows);
  }
}

function assertBlock(sequence: StoredSequence, index: number, seed: number): void {
  const out = new Uint8Array(SIZES.part);
  for (let layer = 0; layer < SHAPE.numLayers; layer++) {
    sequence.readPart(index, layer, out, 0);
    assert.deepEqual(out, makePart(seed * 100 + index * 10 + layer));
  }
}

for (const [name, host, disk] of [["host", 8, null], ["disk", 0, 8], ["both", 2, 6]] as const) {
  Deno.test(`RowStore gives back what was put (${name})`, () => {
    const files = new MemoryFiles();
    files.folders.add("/spill");
    const { store, warnings } = makeStore(host, disk, { files });
    const sequence = store.open();
    for (let index = 0; index < 5; index++) putBlock(sequence, index, 1);
    for (let index = 0; index < 5; index++) assertBlock(sequence, index, 1);
    const parts = [0, 1, 2, 3, 4].map((index) => makePart(100 + index * 10 + 2));
    const positions = [0, 1, 31, 32, 70, 95, 96, 127, 159];
    const rows = new Uint8Array(4 + 7 * 2 * SIZES.row);
    for (let head = 0; head < SHAPE.numKvHeads; head++) {
      const written = sequence.gather(2, head, Uint32Array.from(positions), 1, 7, rows, 4);
      assert.equal(written, 7 * 2 * SIZES.row);
      assert.deepEqual(rows.subarray(4), pickRows(parts, head, positions.slice(1, 8)));
    }
    const stream = new Uint8Array(3 * SIZES.part + 1);
    sequence.readParts(1, 3, 2, stream, 1);
    for (let i = 0; i < 3; i++) {
      assert.deepEqual(stream.slice(1 + i * SIZES.part, 1 + (i + 1) * SIZES.part), parts[1 + i]);
    }
    const { host: inHost, disk: onDisk } = sequence.bytes;
    assert.equal(inHost + onDisk, 5 * SIZES.block);
    assert.equal(inHost, Math.min(5, host) * SIZES.block);
    assert.equal(files.contents.size, (disk === null ? 0 : 1) + onDisk / SIZES.block);
    store.checkInvariants();
    sequence[Symbol.dispose]();
    assert.equal(store.usage.hostBytes + store.usage.diskBytes + store.usage.numBlocks, 0);
    store[Symbol.dispose]();
    assert.deepEqual([...files.contents.keys(), ...files.folders], ["/spill"]);
    assert.deepEqual(warnings, []);
  });
}

Deno.test("RowStore says what is full, which flag helps, and changes nothing", () => {
  const full = makeStore(1, null).store;
  const first = full.open();
  putBlock(first, 0, 1);
  assert.equal(full.canGrow(0), true);
  assert.equal(full.canGrow(1), false);
  const second = full.open();
  assert.throws(() => second.putPart(0, 0, makePart(5)), {
    name: "StoreFullError",
    message: /1 blocks of 2304 bytes.*--kv-host.*--kv-disk/,
  });
  assert.equal(second.numBlocks, 0);
  assertBlock(first, 0, 1);
  const files = new MemoryFiles();
  const { store } = makeStore(1, 1, { files });
  const third = store.open();
  putBlock(third, 0, 3);
  assert.equal(store.canGrow(1), true);
  putBlock(third, 1, 3);
  assert.equal(store.canGrow(1), false);
  assert.throws(() => third.putPart(2, 0, makePart(5)), {
    name: "StoreFullError",
    message: /1 and 1 blocks.*--kv-host or --kv-disk-size/,
  });
  assertBlock(third, 0, 3);
  assertBlock(third, 1, 3);
});

Deno.test("RowStore keeps an unfinished tail and takes its parts again", () => {
  for (const host of [0, 4]) {
    const { store } = makeStore(host, 4, { files: new MemoryFiles() });
    const sequence = store.open();
    sequence.putPart(0, 1, makePart(7), 3);
    assert.equal(sequence.rowsOf(0), 0);
    assert.throws(() => sequence.readPart(0, 0, new Uint8Array(SIZES.part), 0), {
      message: "layer 0 of block 0 was never put",
    });
    const out = new Uint8Array(2 * SIZES.row);
    sequence.gather(1, 0, Uint32Array.of(2), 0, 1, out, 0);
    assert.throws(() => sequence.gather(1, 0, Uint32Array.of(3), 0, 1, out, 0), {
      message: "position 3 was never put",
    });
    putBlock(sequence, 0, 2, 20);
    assert.equal(sequence.rowsOf(0), 20);
    putBlock(sequence, 0, 3);
    assert.equal(sequence.rowsOf(0), BLOCK_ROWS);
    assertBlock(sequence, 0, 3);
    store.checkInvariants();
    store[Symbol.dispose]();
  }
});

Deno.test("RowStore refuses impossible arguments", () => {
  const { store } = makeStore(4, null);
  const sequence = store.open();
  putBlock(sequence, 0, 1);
  const out = new Uint8Array(SIZES.part);
  const none = new Uint32Array(1);
  for (
    const wrong of [
      () => sequence.putPart(2, 0, makePart(1)),
      () => sequence.putPart(0, 3, makePart(1)),
      () => sequence.putPart(0, 0, new Uint8Array(4)),
      () => sequence.putPart(0, 0, makePart(1), 33),
      () => sequence.readPart(1, 0, out, 0),
      () => sequence.readPart(0, 0, out, 1),
      () => sequence.gather(0, 3, none, 0, 1, out, 0),
      () => sequence.gather(0, 0, none, 0, 2, out, 0),
      () => sequence.gather(0, 0, none, 0, 1, out, 2),
      () => sequence.gather(0, 0, Uint32Array.of(32), 0, 1, out, 0),
      () => sequence.truncate(2),
      () => makeStore(1, null, { shape: { ...SHAPE, headDim: 3 } }),
      () => makeStore(1, null, { shape: { ...SHAPE, numLayers: 0 } }),
    ]
  ) assert.throws(wrong, { name: "RangeError" });
  sequence[Symbol.dispose]();
  sequence[Symbol.dispose]();
  assert.throws(() => sequence.putPart(0, 0, makePart(1)), /has ended/);
});

Deno.test("RowStore brings blocks back where there is room, and passes do not thrash", () => {
  const files = new MemoryFiles();
  const { store } = makeStore(3, 20, { files });
  const old = store.open();
  for (let index = 0; index < 3; index++) putBlock(old, index, 1);
  const young = store.open();
  for (let index = 0; index < 6; index++) putBlock(young, index, 2);
  assert.equal(old.bytes.host, 0);
  assert.equal(young.bytes.host, 3 * SIZES.block);
  // Six blocks round and round: those three that lie in host memory stay.
  const before = [...files.contents.keys()];
  for (let round = 0; round < 200; round++) {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      young.readParts(0, 6, layer, new Uint8Array(6 * SIZES.part), 0);
    }
  }
  assert.deepEqual([...files.contents.keys()], before);
  // Those of a sequence that rests make way for those of one that is read.
  for (let round = 0; round < 600; round++) old.readPart(1, 0, new Uint8Array(SIZES.part), 0);
  assert.equal(old.bytes.host, SIZES.block);
  young[Symbol.dispose]();
  for (let index = 0; index < 3; index++) assertBlock(old, index, 1);
  assert.equal(old.bytes.host, 3 * SIZES.block);
  assert.equal(files.contents.size, 1);
  store.checkInvariants();
});

Deno.test("RowStore brings back a block of which parts are missing", () => {
  const { store } = makeStore(1, 4, { files: new MemoryFiles() });
  const sequence = store.open();
  sequence.putPart(0, 1, makePart(1), 5);
  const other = store.open();
  putBlock(other, 0, 2);
  assert.equal(sequence.bytes.disk, SIZES.block);
  sequence.putPart(0, 2, makePart(2), 5);
  other[Symbol.dispose]();
  const out = new Uint8Array(SIZES.part);
  sequence.readPart(0, 1, out, 0);
  assert.equal(sequence.bytes.host, SIZES.block);
  assert.deepEqual(out, makePart(1));
  sequence.readPart(0, 2, out, 0);
  assert.deepEqual(out, makePart(2));
  assert.equal(sequence.rowsOf(0), 0);
});

Deno.test("RowStore says when a size is too small to be of use", () => {
  const files = new MemoryFiles();
  const { warnings } = makeStore(0.5, 0.5, { files });
  assert.deepEqual(warnings, [
    "--kv-host is of no use below 2304 bytes, which is one block of rows",
    "--kv-disk-size is of no use below 3296 bytes, which is one block of rows",
  ]);
  assert.deepEqual(makeStore(0, null).warnings, []);
});
