import { nextChunk } from "../../src/engine/chunk_sizes.ts";
import { availableHostMemory, softwareCacheBytes } from "../../src/engine/host_memory.ts";
import { assert } from "std-testing";

const TARGET = { ms: 2000, least: 32, most: 512 };

Deno.test("nextChunk() halves after a slow chunk and doubles after a fast full one", () => {
  assert.equal(nextChunk(256, 256, 4000, TARGET), 128);
  assert.equal(nextChunk(96, 96, 4000, TARGET), 32);
  assert.equal(nextChunk(32, 32, 9000, TARGET), 32);
  assert.equal(nextChunk(128, 128, 900, TARGET), 256);
  assert.equal(nextChunk(512, 512, 10, TARGET), 512);
  assert.equal(nextChunk(384, 384, 10, TARGET), 512);
});

Deno.test("nextChunk() learns nothing from a chunk that took as long as it should or was short", () => {
  assert.equal(nextChunk(256, 256, 2000, TARGET), 256);
  assert.equal(nextChunk(256, 64, 10, TARGET), 256);
  assert.equal(nextChunk(256, 64, 4000, TARGET), 256);
  // A context smaller than the least chunk is no reason to grow one.
  assert.equal(nextChunk(16, 16, 4000, { ms: 2000, least: 32, most: 16 }), 16);
});

Deno.test("availableHostMemory() is what the system says, or null", () => {
  const known = availableHostMemory();
  assert.ok(known !== null && known > 2 ** 20 && known < Deno.systemMemoryInfo().total);
  assert.equal(availableHostMemory(() => 20480000), 20480000);
  // As on systems that do not say.
  assert.equal(availableHostMemory(() => 0), null);
  assert.equal(
    availableHostMemory(() => {
      throw new Deno.errors.NotSupported();
    }),
    null,
  );
  assert.equal(softwareCacheBytes(null, 5), Infinity);
  assert.equal(softwareCacheBytes(1000, 200), 400);
  assert.equal(softwareCacheBytes(100, 200), 0);
});
