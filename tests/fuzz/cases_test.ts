import { assert } from "std-testing";
import { BufferCount } from "./_buffers.ts";
import { type FuzzCase, MAX_EXTRA_BYTES, runCases } from "./_cases.ts";

const again = (index: number) => `case ${index}`;
const good: FuzzCase = { note: "good", bytes: 10, run: () => true };

Deno.test("what was taken and refused is counted", async () => {
  const tally = await runCases([good, { ...good, run: () => false }], again);
  assert.deepEqual([tally.taken, tally.refused], [1, 1]);
});

Deno.test("a case that throws, or takes too long, ends the run and is named", async () => {
  const throwing = { ...good, note: "bad", run: () => Promise.reject(new TypeError("x")) };
  await assert.rejects(runCases([good, throwing], again), {
    message: "not a named error (TypeError: x): bad; again with case 1",
  });
  const slow = () => {
    for (const start = performance.now(); performance.now() < start + 1050;);
    return true;
  };
  await assert.rejects(
    runCases([{ ...good, run: slow }], again),
    /took 1\d\d\d ms, then 1\d\d\d: good/,
  );
});

Deno.test("a case that asks for too much ends the run, though it kept nothing", async () => {
  for (const ask of [(n: number) => new ArrayBuffer(n), (n: number) => new Uint8Array(n)]) {
    const run = (bytes: number) => () => ask(bytes).byteLength > 0;
    await runCases([{ ...good, run: run(MAX_EXTRA_BYTES >> 1) }], again);
    await assert.rejects(
      runCases([{ ...good, run: run(MAX_EXTRA_BYTES + 11) }], again),
      /bytes of memory: good/,
    );
  }
});

Deno.test("a case that grows the process ends the run, where it has the process for itself", async () => {
  let bytes = 0;
  const run = () => (bytes += MAX_EXTRA_BYTES + 11) > 0;
  await assert.rejects(runCases([{ ...good, run }], again, () => bytes), /bytes of memory: good/);
});

Deno.test("buffers are counted once, and made as ever", () => {
  const original = Uint8Array;
  {
    using count = new BufferCount();
    const bytes = new Uint8Array(10);
    assert.equal(count.bytes, 10);
    assert.ok(bytes instanceof Uint8Array && bytes instanceof original);
    assert.equal(new Uint16Array(bytes.buffer, 2, 2).length, 2);
    assert.equal(count.bytes, 10);
    assert.deepEqual([...Uint8Array.from([1, 2])], [1, 2]);
    assert.equal(count.bytes, 12);
  }
  assert.equal(Uint8Array, original);
});
