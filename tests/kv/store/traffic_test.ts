/** What the store counts of keys and values that go to files and come from them. */
import type { StoredSequence } from "../../../src/kv/store/types.ts";
import { HEADER_BYTES } from "../../../src/kv/store/sizes.ts";
import { assert } from "std-testing";
import { MemoryFiles } from "./_memory_files.ts";
import { makePart, makeStore, SHAPE, SIZES } from "./_store.ts";

function put(sequence: StoredSequence, index: number): void {
  for (let layer = 0; layer < SHAPE.numLayers; layer++) {
    sequence.putPart(index, layer, makePart(index * 10 + layer));
  }
}

function read(sequence: StoredSequence, index: number): void {
  const out = new Uint8Array(SIZES.part);
  for (let layer = 0; layer < SHAPE.numLayers; layer++) sequence.readPart(index, layer, out, 0);
}

Deno.test("without a disk, or before it is needed, nothing is spilled", () => {
  for (const { store } of [makeStore(2, null), makeStore(2, 4, { files: new MemoryFiles() })]) {
    const sequence = store.open();
    put(sequence, 0);
    read(sequence, 0);
    assert.deepEqual(store.diskTraffic, { came: 0, left: 0 });
  }
});

Deno.test("a block that makes way counts with the parts that it has, and reads by what is read", () => {
  const { store } = makeStore(2, 9, { files: new MemoryFiles() });
  const first = store.open();
  first.putPart(0, 1, makePart(7));
  const second = store.open();
  put(second, 0);
  put(second, 1);
  assert.deepEqual(store.diskTraffic, { came: SIZES.part, left: 0 });
  put(second, 2);
  assert.deepEqual(store.diskTraffic, { came: SIZES.part + SIZES.block, left: 0 });
  read(second, 1);
  read(second, 2);
  assert.equal(store.diskTraffic.left, 0);
  read(second, 0);
  assert.equal(store.diskTraffic.left, SIZES.block);
  // A head's 32 keys and values are read together, however few of them are wanted.
  const out = new Uint8Array(3 * 2 * SIZES.row);
  second.gather(2, 1, Uint32Array.of(4, 9, 40), 0, 3, out, 0);
  assert.equal(store.diskTraffic.left, SIZES.block + 2 * SIZES.run);
  // What is forgotten has moved all the same.
  first[Symbol.dispose]();
  second[Symbol.dispose]();
  const all = { came: SIZES.part + SIZES.block, left: SIZES.block + 2 * SIZES.run };
  assert.deepEqual(store.diskTraffic, all);
  store[Symbol.dispose]();
  assert.deepEqual(store.diskTraffic, all);
});

Deno.test("a part that lies on disk counts each time that it is written", () => {
  const { store } = makeStore(0, 4, { files: new MemoryFiles() });
  const sequence = store.open();
  put(sequence, 0);
  sequence.putPart(0, 2, makePart(8));
  assert.deepEqual(store.diskTraffic, { came: SIZES.block + SIZES.part, left: 0 });
});

Deno.test("a block that comes back is read once, as a whole", () => {
  const { store } = makeStore(1, 4, { files: new MemoryFiles() });
  const first = store.open();
  put(first, 0);
  const second = store.open();
  put(second, 0);
  second[Symbol.dispose]();
  read(first, 0);
  read(first, 0);
  assert.equal(first.bytes.host, SIZES.block);
  assert.deepEqual(store.diskTraffic, { came: SIZES.block, left: SIZES.block });
});

Deno.test("what a full disk took before it refused counts, and what cannot be read does not", () => {
  const files = new MemoryFiles();
  const { store } = makeStore(1, 9, { files });
  const sequence = store.open();
  put(sequence, 0);
  files.faults.room = HEADER_BYTES + SIZES.record + 1;
  assert.throws(() => put(sequence, 1), { name: "StoreFullError" });
  assert.deepEqual(store.diskTraffic, { came: SIZES.part, left: 0 });
  files.heal();
  const other = store.open();
  other[Symbol.dispose]();
  put(sequence, 1);
  assert.equal(store.diskTraffic.came, SIZES.part + SIZES.block);
  files.faults.shortRead = true;
  assert.throws(() => read(sequence, 0), { name: "StoreReadError" });
  assert.equal(store.diskTraffic.left, 0);
  // That it is damaged shows when it was read.
  files.heal();
  files.faults.flip = true;
  assert.throws(() => read(sequence, 0), { name: "StoreReadError" });
  assert.equal(store.diskTraffic.left, SIZES.part);
});

Deno.test("the folder of prefixes is no tier", () => {
  const files = new MemoryFiles();
  const folders = { files, prefixDir: "/prefixes" };
  {
    const { store } = makeStore(2, 4, folders);
    const sequence = store.open();
    put(sequence, 0);
    store.offerPrefix(store.prefixKeys(new Array(32).fill(1))[0]!, sequence, 0);
    assert.equal(store.savePrefixes(1), 0);
    assert.deepEqual(store.diskTraffic, { came: 0, left: 0 });
    store[Symbol.dispose]();
  }
  const { store } = makeStore(2, 4, folders);
  const found = store.adoptPrefix(store.prefixKeys(new Array(32).fill(1)));
  assert.equal(found.numBlocks, 1);
  assert.deepEqual(store.diskTraffic, { came: 0, left: 0 });
});
