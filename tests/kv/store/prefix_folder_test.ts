import { assert } from "std-testing";
import { PrefixFolder } from "../../../src/kv/store/prefix_folder.ts";
import { MemoryFiles } from "./_memory_files.ts";
import { SHAPE, SIZES } from "./_store.ts";

const SAVED_BYTES = SIZES.file - SIZES.record;
const BLOCK = new Uint8Array(SHAPE.numLayers * SIZES.part);

/** Files that count how often they are asked. */
class CountingFiles extends MemoryFiles {
  numLists = 0;
  numStates = 0;

  override list(path: string) {
    this.numLists++;
    return super.list(path);
  }

  override state(path: string) {
    this.numStates++;
    return super.state(path);
  }

  /** Bytes of what was saved. */
  get bytes(): number {
    return [...this.contents.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
  }
}

/** A folder for so many blocks, as one process has it. */
function openFolder(files: MemoryFiles, numBlocks: number): PrefixFolder {
  const fail = (message: string) => assert.fail(message);
  const digest = new Uint8Array(32);
  return new PrefixFolder(SIZES, digest, files, "/prefix", numBlocks * SAVED_BYTES, fail);
}

const keyOf = (number: number) => number.toString(16).padStart(64, "0");
const save = (folder: PrefixFolder, number: number) =>
  assert.ok(folder.save(keyOf(number), BLOCK, null, 0));

Deno.test("a prefix folder that fills is listed now and then, and no known file is looked at", () => {
  const files = new CountingFiles();
  const folder = openFolder(files, 100_000);
  for (let number = 0; number < 1000; number++) save(folder, number);
  assert.ok(files.numLists <= 4, `${files.numLists} lists`);
  assert.equal(files.numStates, 0);
});

Deno.test("the more files a prefix folder has, the more is saved before it is listed again", () => {
  const files = new CountingFiles();
  const bytes = new Uint8Array(SAVED_BYTES);
  for (let number = 0; number < 64_000; number++) {
    files.contents.set(`/prefix/${keyOf(number)}.kv`, { bytes, mtimeMs: 0 });
  }
  const folder = openFolder(files, 100_000);
  for (let number = 0; number < 1900; number++) save(folder, 64_000 + number);
  assert.equal(files.numLists, 2);
});

Deno.test("a full prefix folder is looked at for what is new in it, and for what is to go", () => {
  const files = new CountingFiles();
  const numBlocks = 4000;
  const before = openFolder(files, numBlocks);
  for (let number = 0; number < numBlocks; number++) save(before, number);
  const folder = openFolder(files, numBlocks);
  [files.numLists, files.numStates] = [0, 0];
  for (let number = 0; number < 1024; number++) save(folder, numBlocks + number);
  assert.ok(files.bytes <= numBlocks * SAVED_BYTES);
  assert.ok(files.numLists <= 4, `${files.numLists} lists`);
  // One for each block that made way, and the blocks that it does not know yet at each look.
  assert.ok(files.numStates <= 2048, `${files.numStates} states`);
});

Deno.test("a save into a full prefix folder whose files others have all used is short", () => {
  const files = new CountingFiles();
  const bytes = new Uint8Array(SAVED_BYTES);
  const numBlocks = 40_000;
  for (let number = 0; number < numBlocks; number++) {
    files.contents.set(`/prefix/${keyOf(number)}.kv`, { bytes, mtimeMs: 1e12 });
  }
  const folder = openFolder(files, numBlocks);
  const other = openFolder(files, numBlocks);
  for (let number = 0; number < numBlocks; number++) other.touch(keyOf(number), 0);
  const began = performance.now();
  // By then each file was asked for its time.
  for (let number = 0; number < 40; number++) {
    files.numStates = 0;
    save(folder, numBlocks + number);
    assert.ok(files.numStates <= 1025, `${files.numStates} states`);
    assert.ok(files.bytes <= numBlocks * SAVED_BYTES);
  }
  // Passes over all files for each that was used would take more than ten times as long.
  const ms = performance.now() - began;
  assert.ok(ms < 3000, `${ms} ms`);
  // Now it knows: whatever goes is asked for once.
  files.numStates = 0;
  save(folder, numBlocks + 40);
  assert.ok(files.numStates <= 1, `${files.numStates} states`);
});

Deno.test("of blocks that another process has used since the oldest makes way", () => {
  const files = new MemoryFiles();
  const folder = openFolder(files, 4);
  for (let number = 0; number < 4; number++) save(folder, number);
  const hour = 3_600_000;
  const now = Date.now();
  // All used since, and not in the order in which they were saved.
  for (const [number, hours] of [3, 1, 4, 2].entries()) {
    files.contents.get(`/prefix/${keyOf(number)}.kv`)!.mtimeMs = now + hours * hour;
  }
  for (const [number, left] of [[4, [0, 2, 3, 4]], [5, [0, 2, 3, 5]]] as const) {
    save(folder, number);
    const found = [0, 1, 2, 3, 4, 5].filter((each) => folder.has(keyOf(each)));
    assert.deepEqual(found, left);
  }
});

Deno.test("a block that another process has removed is not there at the next look, and saved again", () => {
  const files = new MemoryFiles();
  const folder = openFolder(files, 64);
  save(folder, 0);
  openFolder(files, 64).drop(keyOf(0));
  // An eighth of the cap.
  for (let number = 1; number <= 9; number++) save(folder, number);
  assert.ok(!folder.has(keyOf(0)));
  save(folder, 0);
  assert.ok(folder.has(keyOf(0)));
  assert.ok(openFolder(files, 64).has(keyOf(0)));
});

Deno.test("processes that share a prefix folder keep it near its cap together", () => {
  let seed = 1;
  const random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
  for (const numProcesses of [1, 2, 4, 8]) {
    for (const numBlocks of [1, 5, 64, 3000]) {
      const files = new CountingFiles();
      const folders = Array.from({ length: numProcesses }, () => openFolder(files, numBlocks));
      // Each may save so much that the others have not seen.
      const share = Math.min(256, numBlocks / 8);
      const most = numBlocks + (numProcesses - 1) * Math.ceil(share);
      for (let number = 0; number < 3 * numBlocks;) {
        // One after the other, some few and some many.
        const folder = folders[Math.floor(random() * numProcesses)]!;
        for (const end = number + 1 + random() ** 3 * numBlocks; number < end; number++) {
          save(folder, number);
        }
        const numSaved = files.bytes / SAVED_BYTES;
        assert.ok(numSaved <= most, `${numSaved} of ${numBlocks} with ${numProcesses} processes`);
      }
    }
  }
});

Deno.test("a block that another process has used since does not make way", () => {
  const files = new MemoryFiles();
  const first = openFolder(files, 4);
  for (let number = 0; number < 4; number++) save(first, number);
  for (const content of files.contents.values()) content.mtimeMs -= 3_600_000;
  const second = openFolder(files, 4);
  first.touch(keyOf(0), 0);
  save(second, 4);
  const left = [0, 1, 2, 3, 4].filter((number) =>
    files.contents.has(`/prefix/${keyOf(number)}.kv`)
  );
  assert.equal(left.length, 4);
  assert.ok(left.includes(0), left.join());
});
