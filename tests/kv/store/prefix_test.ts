import { assert } from "std-testing";
import type { RowStore } from "../../../src/kv/store/row_store.ts";
import type { StoredSequence } from "../../../src/kv/store/types.ts";
import { MemoryFiles } from "./_memory_files.ts";
import { makePart, makeStore, SHAPE, SIZES } from "./_store.ts";

const SAVED_BYTES = SIZES.file - SIZES.record;

function ids(count: number, first = 0): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

/** Puts and offers a chain; block i holds parts of seed + 10 i. */
function offer(store: RowStore, keys: string[], seed: number, extras?: Uint8Array): void {
  const sequence = store.open();
  keys.forEach((_, index) => {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      sequence.putPart(index, layer, makePart(seed + 10 * index + layer));
    }
  });
  keys.forEach((key, index) => store.offerPrefix(key, sequence, index, extras));
  sequence[Symbol.dispose]();
}

function assertChain(sequence: StoredSequence, count: number, seed: number): void {
  assert.equal(sequence.numBlocks, count);
  const out = new Uint8Array(SIZES.part);
  for (let index = 0; index < count; index++) {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      sequence.readPart(index, layer, out, 0);
      assert.deepEqual(out, makePart(seed + 10 * index + layer));
    }
  }
}

Deno.test("prefixKeys() covers all ids before, the model, the shape and the salt", () => {
  const { store } = makeStore(4, null);
  const keys = store.prefixKeys(ids(100));
  assert.equal(keys.length, 3);
  for (const key of keys) assert.match(key, /^[0-9a-f]{64}$/);
  assert.deepEqual(store.prefixKeys(ids(64)), keys.slice(0, 2));
  assert.deepEqual(store.prefixKeys(Uint32Array.from(ids(96))), keys);
  const others = [
    store.prefixKeys([7, ...ids(99, 1)]),
    store.prefixKeys(ids(100), "somebody"),
    makeStore(4, null, { fingerprint: "another" }).store.prefixKeys(ids(100)),
    makeStore(4, null, { shape: { ...SHAPE, bytesPerValue: 4 } }).store.prefixKeys(ids(100)),
  ];
  const all = [keys, ...others].flat();
  assert.equal(new Set(all).size, all.length);
  assert.throws(() => store.prefixKeys(ids(32, -1)), { name: "RangeError" });
});

Deno.test("a prefix is found after its sequence ended, shared, and not put again", () => {
  const { store } = makeStore(8, null);
  const keys = store.prefixKeys(ids(96));
  offer(store, keys, 100, Uint8Array.of(1, 2));
  assert.deepEqual([store.usage.numBlocks, store.usage.numCached], [0, 3]);
  assert.equal(store.countPrefix([...keys, "0"]), 3);
  const first = store.adoptPrefix(keys);
  const second = store.adoptPrefix([...keys.slice(0, 2), ...store.prefixKeys(ids(32, 9))]);
  assertChain(first, 3, 100);
  assertChain(second, 2, 100);
  assert.deepEqual(first.extras(2), Uint8Array.of(1, 2));
  assert.equal(store.usage.numBlocks, 3);
  assert.throws(() => first.putPart(0, 0, makePart(1)), /block 0 is shared/);
  second.putPart(2, 0, makePart(5), 4);
  assert.equal(second.extras(2), null);
  assert.throws(() => store.offerPrefix("00", second, 2), /not full/);
  second.truncate(1);
  first[Symbol.dispose]();
  assertChain(second, 1, 100);
  store.checkInvariants();
});

Deno.test("a chain stops at a gap, and where what was kept does not do", () => {
  const { store } = makeStore(8, null);
  const keys = store.prefixKeys(ids(128));
  offer(store, keys.slice(0, 3), 100);
  assert.equal(store.adoptPrefix([...keys.slice(1), "00"]).numBlocks, 2);
  assert.equal(store.adoptPrefix(keys, (extras) => extras !== null).numBlocks, 0);
  assert.equal(store.adoptPrefix(keys, (_, index) => index < 2).numBlocks, 2);
  // Extras that come later are kept with the block that is there.
  offer(store, keys.slice(0, 1), 100, Uint8Array.of(9));
  const sequence = store.adoptPrefix(keys, (extras) => extras !== null);
  assert.deepEqual(sequence.extras(0), Uint8Array.of(9));
  store.checkInvariants();
});

Deno.test("cached blocks use room that nobody needs, the oldest and last of a chain go first", () => {
  for (const [host, disk] of [[4, null], [0, 4], [2, 2]] as const) {
    const { store } = makeStore(host, disk, { files: new MemoryFiles() });
    const old = store.prefixKeys(ids(64));
    const young = store.prefixKeys(ids(64, 7));
    offer(store, old, 100);
    offer(store, young, 200);
    assert.equal(store.canGrow(4), true);
    assert.equal(store.canGrow(5), false);
    const sequence = store.open();
    sequence.putPart(0, 0, makePart(1));
    assert.equal(store.countPrefix(old), 1, `${host} and ${disk}`);
    assert.equal(store.countPrefix(young), 2);
    sequence.putPart(1, 0, makePart(1));
    assertChain(store.adoptPrefix(young), 2, 200);
    assert.equal(store.countPrefix(old), 0);
    assert.equal(store.canGrow(1), false);
    assert.throws(() => sequence.putPart(2, 0, makePart(1)), { name: "StoreFullError" });
    assert.equal(store.countPrefix(young), 2);
    store.checkInvariants();
  }
});

Deno.test("saved prefixes outlive the store, in any tier", () => {
  for (const [host, disk] of [[8, null], [0, 8], [1, 8]] as const) {
    const files = new MemoryFiles();
    const options = { files, prefixDir: "/prefix" };
    const first = makeStore(host, disk, options).store;
    const keys = first.prefixKeys(ids(128));
    offer(first, keys, 100, Uint8Array.of(4, 5, 6));
    assert.equal(first.usage.numUnsaved, 4);
    assert.equal(first.savePrefixes(1), 3);
    first[Symbol.dispose]();
    const { store, warnings } = makeStore(host, disk, options);
    assert.equal(store.countPrefix(keys), 4);
    const sequence = store.adoptPrefix(keys);
    assertChain(sequence, 4, 100);
    assert.deepEqual(sequence.extras(3), Uint8Array.of(4, 5, 6));
    assert.equal(store.usage.numUnsaved, 0);
    store.checkInvariants();
    store[Symbol.dispose]();
    assert.deepEqual(warnings, []);
    assert.equal([...files.contents.keys()].length, 4);
  }
});

Deno.test("a block that makes way is saved first, and a loaded one is not mixed up with it", () => {
  const files = new MemoryFiles();
  const options = { files, prefixDir: "/prefix" };
  const before = makeStore(0, 2, options).store;
  const saved = before.prefixKeys(ids(64, 5));
  offer(before, saved, 500);
  before[Symbol.dispose]();
  const { store } = makeStore(0, 2, options);
  const keys = store.prefixKeys(ids(64));
  offer(store, keys, 100);
  assert.equal(store.usage.numUnsaved, 2);
  const adopted = store.adoptPrefix(saved);
  assertChain(adopted, 2, 500);
  assert.equal(store.usage.numUnsaved, 0);
  adopted[Symbol.dispose]();
  assertChain(store.adoptPrefix(keys), 2, 100);
  store.checkInvariants();
});

Deno.test("what cannot be used in the prefix folder is ignored with one warning", () => {
  const harms: [RegExp, (bytes: Uint8Array) => Uint8Array][] = [
    [/wrong checksum in layer 1/, (bytes) => (bytes[128 + SIZES.record + 7]! ^= 1, bytes)],
    [/wrong checksum in layer 2/, (bytes) => (bytes[SAVED_BYTES - 1]! ^= 1, bytes)],
    [/damaged, of another version/, (bytes) => (bytes[8] = 2, bytes)],
    [/damaged/, (bytes) => (bytes[bytes.length - 1]! ^= 1, bytes)],
    [/damaged/, (bytes) => (bytes[50]! ^= 1, bytes)],
    [/its size is not what its header says/, (bytes) => bytes.subarray(0, bytes.length - 1)],
    [/its size is not/, (bytes) => (bytes[36] = 200, bytes)],
    [/it has 10 bytes/, (bytes) => bytes.subarray(0, 10)],
  ];
  for (const [reason, harm] of harms) {
    const files = new MemoryFiles();
    const options = { files, prefixDir: "/prefix" };
    const first = makeStore(8, null, options).store;
    const keys = first.prefixKeys(ids(96));
    offer(first, keys, 100, Uint8Array.of(1));
    first[Symbol.dispose]();
    const path = `/prefix/${keys[1]}.kv`;
    const content = files.contents.get(path)!;
    content.bytes = harm(content.bytes.slice()).slice();
    const { store, warnings } = makeStore(8, null, options);
    assertChain(store.adoptPrefix(keys), 1, 100);
    assertChain(store.adoptPrefix(keys), 1, 100);
    assert.equal(warnings.length, 1);
    assert.ok(warnings[0]!.includes(path));
    assert.match(warnings[0]!, reason);
    // A new one takes its place.
    offer(store, keys, 200);
    store[Symbol.dispose]();
    const again = makeStore(8, null, options);
    assert.equal(again.store.adoptPrefix(keys).numBlocks, 3);
    assert.deepEqual(again.warnings, []);
  }
});

Deno.test("a block of another model under this name is ignored", () => {
  const files = new MemoryFiles();
  const options = { files, prefixDir: "/prefix" };
  const other = makeStore(8, null, { ...options, fingerprint: "another" }).store;
  const theirs = other.prefixKeys(ids(32));
  offer(other, theirs, 100);
  other[Symbol.dispose]();
  const { store, warnings } = makeStore(8, null, options);
  const ours = store.prefixKeys(ids(32));
  files.rename(`/prefix/${theirs[0]}.kv`, `/prefix/${ours[0]}.kv`);
  assert.equal(store.adoptPrefix(ours).numBlocks, 0);
  assert.match(warnings[0]!, /another model/);
});

Deno.test("saving that fails is one warning, and leaves nothing half done", () => {
  for (const failing of ["create", "write", "sync", "close", "rename"] as const) {
    const files = new MemoryFiles();
    const { store, warnings } = makeStore(8, null, { files, prefixDir: "/prefix" });
    const keys = store.prefixKeys(ids(64));
    offer(store, keys, 100);
    files.faults.failing.add(failing);
    assert.equal(store.savePrefixes(9), 0);
    assert.equal(warnings.length, 1, failing);
    assert.match(warnings[0]!, /cannot be saved in \/prefix: EIO/);
    assert.deepEqual([...files.contents.keys()], []);
    assert.equal(files.numOpen, 0);
    files.heal();
    assertChain(store.adoptPrefix(keys), 2, 100);
    store.checkInvariants();
  }
});

Deno.test("the prefix folder keeps to its cap; the first blocks of a chain stay longest", () => {
  const files = new MemoryFiles();
  // As slow as a disk.
  files.sync = () => {
    for (const began = performance.now(); performance.now() < began + 4;);
  };
  const options = { files, prefixDir: "/prefix", prefixBytes: 4 * SAVED_BYTES + 10 };
  const { store } = makeStore(16, null, options);
  const first = store.prefixKeys(ids(96));
  offer(store, first, 100);
  store.savePrefixes(9);
  for (const content of files.contents.values()) content.mtimeMs -= 60_000;
  store[Symbol.dispose]();
  files.contents.set("/prefix/mine.txt", { bytes: new Uint8Array(99), mtimeMs: 0 });
  const next = makeStore(16, null, options).store;
  offer(next, next.prefixKeys(ids(64, 3)), 200);
  next[Symbol.dispose]();
  const last = makeStore(16, null, options).store;
  assert.equal(last.countPrefix(first), 2);
  assert.equal(last.countPrefix(last.prefixKeys(ids(64, 3))), 2);
  assert.equal(files.contents.size, 5);
});

Deno.test("old files that were never finished are cleared away, others are left", () => {
  const files = new MemoryFiles();
  files.folders.add("/prefix");
  const name = `${"a".repeat(64)}.${"b".repeat(32)}.new`;
  const bytes = new Uint8Array(3);
  files.contents.set(`/prefix/${name}`, { bytes, mtimeMs: 0 });
  files.contents.set(`/prefix/c${name.slice(1)}`, { bytes, mtimeMs: Date.now() });
  files.contents.set("/prefix/notes.new", { bytes, mtimeMs: 0 });
  makeStore(1, null, { files, prefixDir: "/prefix" });
  assert.deepEqual([...files.contents.keys()], [`/prefix/c${name.slice(1)}`, "/prefix/notes.new"]);
});
