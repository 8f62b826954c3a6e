import { assert } from "std-testing";
import type { StoredSequence } from "../../../src/kv/store/types.ts";
import { MemoryFiles } from "./_memory_files.ts";
import { makePart, makeStore, SHAPE, SIZES } from "./_store.ts";

function put(sequence: StoredSequence, index: number, seed: number): void {
  for (let layer = 0; layer < SHAPE.numLayers; layer++) {
    sequence.putPart(index, layer, makePart(seed + layer));
  }
}

function assertHas(sequence: StoredSequence, index: number, seed: number): void {
  const out = new Uint8Array(SIZES.part);
  for (let layer = 0; layer < SHAPE.numLayers; layer++) {
    sequence.readPart(index, layer, out, 0);
    assert.deepEqual(out, makePart(seed + layer));
  }
}

Deno.test("a full disk is the error of the one who needs it, and passes", () => {
  const files = new MemoryFiles();
  const { store } = makeStore(1, 9, { files });
  const first = store.open();
  const second = store.open();
  put(first, 0, 10);
  put(first, 1, 20);
  files.faults.room = 1000; // in the middle of a block
  assert.throws(() => put(second, 0, 30), {
    name: "StoreFullError",
    message: /the disk last refused: ENOSPC/,
  });
  assert.equal(second.numBlocks, 0);
  assert.equal(store.canGrow(1), false);
  assert.equal(store.usage.diskBytes, SIZES.file);
  store.checkInvariants();
  assertHas(first, 0, 10);
  assertHas(first, 1, 20);
  files.heal();
  second[Symbol.dispose]();
  assert.equal(store.canGrow(8), true);
  const third = store.open();
  put(third, 0, 40);
  assertHas(third, 0, 40);
  store.checkInvariants();
});

Deno.test("a part that cannot be written again leaves the old one readable", () => {
  const files = new MemoryFiles();
  const { store } = makeStore(0, 9, { files });
  const sequence = store.open();
  put(sequence, 0, 10);
  put(sequence, 0, 20);
  files.faults.room = 100;
  assert.throws(() => sequence.putPart(0, 1, makePart(99)), { name: "StoreFullError" });
  assertHas(sequence, 0, 20);
  files.faults.room = Infinity;
  files.faults.most = 5; // writes and reads in small pieces
  put(sequence, 0, 30);
  assertHas(sequence, 0, 30);
});

Deno.test("memory that is refused counts as full until something is given back", () => {
  let refuse = false;
  const { store } = makeStore(4, null, {
    allocate: (bytes) => {
      if (refuse) throw new RangeError("no memory");
      return new ArrayBuffer(bytes);
    },
  });
  const first = store.open();
  put(first, 0, 10);
  refuse = true;
  assert.equal(store.canGrow(1), true);
  assert.throws(() => put(first, 1, 20), { name: "StoreFullError", message: /1 blocks/ });
  assert.equal(store.canGrow(1), false);
  assertHas(first, 0, 10);
  refuse = false;
  first[Symbol.dispose]();
  assert.equal(store.canGrow(4), true);
});

for (
  const [name, harm, reason] of [
    ["short", (files: MemoryFiles) => files.faults.shortRead = true, /ends 1 bytes early/],
    ["with a wrong bit", (files: MemoryFiles) => files.faults.flip = true, /wrong checksum/],
    ["failing", (files: MemoryFiles) => files.faults.failing.add("read"), /EIO/],
  ] as const
) {
  Deno.test(`a read that is ${name} is an error, never other rows`, () => {
    const files = new MemoryFiles();
    const { store } = makeStore(1, 9, { files });
    const sequence = store.open();
    put(sequence, 0, 10);
    put(sequence, 1, 20); // block 0 goes to disk
    harm(files);
    const out = new Uint8Array(SIZES.part);
    assert.throws(() => sequence.readPart(0, 0, out, 0), {
      name: "StoreReadError",
      message: reason,
    });
    assert.throws(() => sequence.gather(0, 1, Uint32Array.of(4), 0, 1, out, 0), {
      name: "StoreReadError",
      message: reason,
    });
    assertHas(sequence, 1, 20);
    files.heal();
    assertHas(sequence, 0, 10);
    store.checkInvariants();
  });
}

Deno.test("damage on disk is the error of those who have the block, and of nobody later", () => {
  const files = new MemoryFiles();
  const { store } = makeStore(0, 9, { files });
  const first = store.open();
  put(first, 0, 10);
  put(first, 1, 20);
  const keys = store.prefixKeys(Array.from({ length: 64 }, (_, id) => id));
  store.offerPrefix(keys[0]!, first, 0);
  store.offerPrefix(keys[1]!, first, 1);
  const second = store.adoptPrefix(keys);
  assert.equal(second.numBlocks, 2);
  const [path] = [...files.contents.keys()].filter((each) => each.endsWith(".kv"));
  const { bytes } = files.contents.get(path!)!;
  for (let at = 300; at < bytes.length; at += SIZES.part) bytes[at]! ^= 1;
  const out = new Uint8Array(2 * SIZES.part);
  assert.throws(() => second.readParts(0, 2, 0, out, 0), { name: "StoreReadError" });
  assert.equal(store.adoptPrefix(keys).numBlocks, 0);
  assertHas(second, 1, 20);
  second[Symbol.dispose]();
  assertHas(first, 1, 20);
  store.checkInvariants();
});

Deno.test("a file that is gone or another one is an error of its sequence", () => {
  const files = new MemoryFiles();
  const { store } = makeStore(0, 200, { files });
  const sequence = store.open();
  for (let index = 0; index < 70; index++) put(sequence, index, index * 10);
  assert.ok(files.numOpen <= 64);
  const paths = [...files.contents.keys()].filter((path) => path.endsWith(".kv"));
  files.contents.delete(paths[0]!);
  files.contents.set(paths[1]!, files.contents.get(paths[2]!)!);
  const out = new Uint8Array(SIZES.part);
  assert.throws(() => sequence.readPart(0, 0, out, 0), /ENOENT/);
  assert.throws(() => sequence.readPart(1, 0, out, 0), /it is another file/);
  assertHas(sequence, 2, 20);
  store[Symbol.dispose]();
  assert.equal(files.numOpen, 0);
  assert.deepEqual([...files.contents.keys()], []);
});

Deno.test("a file that cannot be removed counts until it is, with one warning", () => {
  const files = new MemoryFiles();
  const { store, warnings } = makeStore(0, 3, { files });
  const sequence = store.open();
  put(sequence, 0, 10);
  put(sequence, 1, 20);
  files.faults.failing.add("remove");
  sequence[Symbol.dispose]();
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]!, /\/spill\/tokenbutler-.*\.kv cannot be removed \(EIO/);
  assert.equal(store.usage.diskBytes, 2 * SIZES.file);
  assert.equal(store.canGrow(2), false);
  store.checkInvariants();
  files.heal();
  const next = store.open();
  put(next, 0, 30);
  next[Symbol.dispose]();
  assert.equal(store.usage.diskBytes, 0);
  assert.equal(store.canGrow(3), true);
});
