/** Bytes that go from tier to tier, by direction: what follows from the sizes of rows and blocks. */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { MovedBytes } from "../../src/kv/moves.ts";
import type { EngineTotals } from "../../src/engine/totals.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import { Transit } from "../../src/engine/offload/transit.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { MemoryFiles } from "../kv/store/_memory_files.ts";
import { forced } from "./_ahead.ts";
import { openEngine, type TestEngine } from "./_engine.ts";
import { makeCalibration, offloadedModel, onDevice, textIds } from "./_offload.ts";
import { generate, request, run } from "./_requests.ts";

const PATH = await offloadedModel();
const CALIBRATION = await makeCalibration();
const TEXT = textIds(190, 320);
const NUM_PROMPT = 150;
/** Tokens of a prefill chunk: two blocks. */
const CHUNK = 64;
const STEPS = 12;
/** Keys and values of 32 rows in 3 layers, with 2 KV heads of 32 values in f32. */
const BLOCK = 3 * 32 * 2 * 32 * 2 * 4;
/** The same of one row of one head of one layer. */
const ROW = 32 * 2 * 4;
const FEW: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 }, denseLayers: 0 };
const ON_DISK = { hostBytes: 0, diskDir: "/spill" } as const;

function open(
  tiers: Partial<TierOptions>,
  stepped: (parts: EngineParts, step: number) => unknown = () => {},
  files = new MemoryFiles(),
): Promise<TestEngine> {
  let step = 0;
  return openEngine(
    PATH,
    {
      contextLength: 256,
      prefillChunk: CHUNK,
      calibration: CALIBRATION,
      tiers: { ...DEFAULT_TIERS, prefixCache: false, ...tiers },
    },
    (parts) => ({ decoded: () => stepped(parts, ++step) }),
    { files },
  );
}

/** Feeds the text after the prompt; what the engine has done then. */
async function feed({ engine }: TestEngine, kv: KvRequest, steps = STEPS): Promise<EngineTotals> {
  const text = TEXT.slice(0, NUM_PROMPT + steps + 1);
  const { promptIds, maxTokens, ...more } = forced(text, NUM_PROMPT, kv);
  await generate(engine, promptIds, maxTokens, more);
  return (await engine.stats()).totals;
}

/** In blocks: device to host and back, host to disk and back. */
function assertMoved(moved: MovedBytes, blocks: readonly [number, number, number, number]): void {
  const { deviceToHost, hostToDevice, hostToDisk, diskToHost } = moved;
  const found = [deviceToHost, hostToDevice, hostToDisk, diskToHost];
  assert.deepEqual(found.map((bytes) => bytes / BLOCK), blocks);
}

Deno.test("what has room on the device moves nothing", async () => {
  await using opened = await open(ON_DISK);
  for (const policy of ["dense", "loki"] as const) {
    assertMoved((await feed(opened, { ...FEW, policy })).moved, [0, 0, 0, 0]);
  }
});

/** Parks the only sequence and brings it back. */
async function parkOnce({ runner, kv }: EngineParts, numRows: number): Promise<void> {
  const { settings } = runner.report(0)!;
  const parked = await runner.park(0);
  assert.ok(parked !== null);
  kv.release(0);
  const need = { settings, maxRows: NUM_PROMPT + STEPS, numRows };
  kv.begin(0, need);
  await runner.begin(0, need);
  await runner.restore(0, parked);
}

Deno.test("parking moves whole blocks, and of them to disk what the host has no room for", async () => {
  // 157 rows are five blocks, the last one begun.
  for (
    const [tiers, spilled] of [
      [{ hostBytes: 5 * BLOCK }, 0],
      [{ hostBytes: 2 * BLOCK, diskDir: "/spill" }, 3],
      [ON_DISK, 5],
    ] as const
  ) {
    await using opened = await open(tiers, (parts, step) => {
      if (step === 7) return parkOnce(parts, NUM_PROMPT + 7);
    });
    const totals = await feed(opened, { policy: "dense" });
    assertMoved(totals.moved, [5, 5, spilled, spilled]);
    // Nothing else was fetched.
    assert.equal(totals.bytes, totals.moved.hostToDevice);
  }
});

Deno.test("a sequence that cannot be parked was read all the same", async () => {
  await using opened = await open({ hostBytes: 2 * BLOCK }, async ({ runner }, step) => {
    if (step === 7) assert.equal(await runner.park(0), null);
  });
  assertMoved((await feed(opened, { policy: "dense" })).moved, [5, 0, 0, 0]);
});

/**
 * Blocks that the prompt moves, four whole ones and a begun one, where each layer has four pages: the
 * first block, the newest two, and one to fetch into.
 */
const PREFILL = {
  /** Each when it is whole. */
  stored: 4,
  /** The second chunk attends to two earlier blocks, the third to four, not all of them in pages. */
  passed: 2 + 4,
};

Deno.test("below the device blocks pass through at every step, from wherever they lie", async () => {
  const roomFor = (blocks: number) => ({ hostBytes: blocks * BLOCK, diskDir: "/spill" });
  for (const [tiers, isOnDisk] of [[roomFor(6), false], [ON_DISK, true]] as const) {
    await using opened = await open({ ...onDevice(4), ...tiers });
    const { moved, bytes } = await feed(opened, { ...FEW, policy: "dense" });
    // Of the five blocks of 151 .. 160 rows two are not on the device, of six for 161 and 162 three.
    const passed = 10 * 2 + 2 * 3;
    const stored = PREFILL.stored + 1;
    const sent = PREFILL.passed + passed;
    assertMoved(moved, [stored, sent, isOnDisk ? stored : 0, isOnDisk ? sent : 0]);
    assert.equal(bytes, passed * BLOCK);
  }
});

Deno.test("chosen rows move row by row to the device, and head by head from the disk", async () => {
  await using opened = await open({ ...onDevice(4), ...ON_DISK });
  const { moved, bytes } = await feed(opened, { ...FEW, policy: "loki" });
  assert.ok(bytes > 0);
  assert.equal(bytes % ROW, 0);
  const stored = PREFILL.stored + 1;
  assert.equal(moved.deviceToHost, stored * BLOCK);
  assert.equal(moved.hostToDisk, stored * BLOCK);
  assert.equal(moved.hostToDevice, PREFILL.passed * BLOCK + bytes);
  // A head's share of a block of a layer is read for the rows that are wanted of it: one to all 32.
  const read = moved.diskToHost - PREFILL.passed * BLOCK;
  assert.equal(read % (32 * ROW), 0);
  assert.ok(read >= bytes && read <= 32 * bytes, `${read} bytes for ${bytes}`);
});

Deno.test("decode steps wait for rows that are not on the device, unless these were fetched ahead", async () => {
  // No block becomes whole meanwhile: none gives way.
  const steps = 9;
  const below = { ...onDevice(4), ...ON_DISK };
  for (
    const [tiers, kv, waited] of [
      [ON_DISK, { policy: "dense" }, 0],
      [ON_DISK, { policy: "loki" }, 0],
      // Sinks and window are there.
      [below, { policy: "streaming" }, 0],
      [below, { policy: "dense" }, steps],
      [below, { policy: "loki" }, steps],
      // Chosen in every third one.
      [below, { policy: "loki", interval: 3, neighbours: false }, 3],
      // The first one has nobody before it.
      [below, { policy: "loki", fetch: "ahead" }, 1],
    ] satisfies [Partial<TierOptions>, KvRequest, number][]
  ) {
    await using opened = await open(tiers);
    const { waitedMs, waitedSteps } = await feed(opened, { ...FEW, ...kv }, steps);
    assert.equal(waitedSteps, waited, JSON.stringify(kv));
    assert.equal(waitedMs > 0, waited > 0);
  }
});

Deno.test("decode steps wait for the keys that exact scores read", async () => {
  const files = new MemoryFiles();
  const read = files.read.bind(files);
  let isSlow = false;
  let sleptMs = 0;
  files.read = (handle, out, position) => {
    // Chosen rows are read head by head: what is larger is read to be scored.
    if (isSlow && out.length > 32 * ROW) {
      const began = performance.now();
      while (performance.now() - began < 2);
      sleptMs += performance.now() - began;
    }
    return read(handle, out, position);
  };
  // From the first step on, or the prompt's own reads would be slow.
  await using opened = await open({ ...onDevice(4), ...ON_DISK }, () => isSlow = true, files);
  const { waitedMs, waitedSteps } = await feed(opened, { ...FEW, policy: "oracle" }, 5);
  assert.equal(waitedSteps, 5);
  assert.ok(sleptMs >= 4 * 3 * 2, `${sleptMs} ms`);
  assert.ok(waitedMs >= sleptMs, `waited ${waitedMs} ms for reads of ${sleptMs} ms`);
});

Deno.test("keys that are read of a prefix below the device, for what is kept of each row, count", async () => {
  for (
    const [policy, keys] of [
      ["dense", 0],
      ["streaming", 0],
      // Of the block that has no page.
      ["loki", 0.5],
      ["quest", 0.5],
    ] as const
  ) {
    await using opened = await open({ ...onDevice(4), prefixCache: true });
    const { engine } = opened;
    const ask = () => generate(engine, TEXT.slice(0, NUM_PROMPT), 1, { kv: { ...FEW, policy } });
    await ask();
    const before = (await engine.stats()).totals.moved.hostToDevice;
    assert.equal((await ask()).cachedTokens, 128);
    const after = (await engine.stats()).totals.moved.hostToDevice;
    // Three of the four blocks get pages; all four pass through for the rest of the prompt.
    assert.equal((after - before) / BLOCK, 3 + 4 + keys, policy);
  }
});

Deno.test("a prompt that is found again comes to the device, and is not read back twice", async () => {
  await using opened = await open({ prefixCache: true });
  const { engine } = opened;
  const moved = async () => (await engine.stats()).totals.moved;
  // The whole blocks are offered when the prompt is there; the answer's when it is over.
  await generate(engine, TEXT.slice(0, NUM_PROMPT), 1);
  assertMoved(await moved(), [4, 0, 0, 0]);
  await generate(engine, TEXT.slice(0, NUM_PROMPT), 1);
  assertMoved(await moved(), [4, 4, 0, 0]);
  assert.equal((await engine.stats()).totals.bytes, 0);
});

Deno.test("what a sequence moved before it was given up counts", async () => {
  await using opened = await open({ ...onDevice(4), ...ON_DISK }, (_, step) => {
    if (step === 3) opened.engine.cancel("left");
  });
  const asked = request(TEXT.slice(0, NUM_PROMPT), 30, {
    id: "left",
    kv: { ...FEW, policy: "dense" },
  });
  assert.equal((await run(opened.engine, asked)).reason, "cancelled");
  const { moved } = (await opened.engine.stats()).totals;
  const { stored, passed } = PREFILL;
  assertMoved(moved, [stored, passed + 3 * 2, stored, passed + 3 * 2]);
});

Deno.test("what a step fetched before it failed counts as fetched too", async () => {
  const { throttle } = Transit.prototype;
  let isFailing = false;
  Transit.prototype.throttle = function (bytes) {
    // Its blocks are sent by now.
    if (isFailing) return Promise.reject(new Error("the next one cannot be read"));
    return throttle.call(this, bytes);
  };
  try {
    await using opened = await open(
      { ...onDevice(4), ...ON_DISK },
      (_, step) => isFailing = step === 3,
    );
    const kv: KvRequest = { ...FEW, policy: "dense" };
    const answer = await run(opened.engine, request(TEXT.slice(0, NUM_PROMPT), 30, { kv }));
    assert.match(answer.error?.message ?? "", /the next one cannot be read/);
    const { moved, bytes } = (await opened.engine.stats()).totals;
    // Two blocks a step, also in the fourth, which sends those of each layer and fails in each.
    const passed = 4 * 2;
    assert.equal(bytes, passed * BLOCK);
    assert.equal(moved.hostToDevice, PREFILL.passed * BLOCK + bytes);
  } finally {
    Transit.prototype.throttle = throttle;
  }
});
