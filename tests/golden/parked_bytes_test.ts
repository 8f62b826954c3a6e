/** Rows that come back to the device after parking are bytes of the reply's steps. */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { KvReport } from "../../src/butler/settings_types.ts";
import type { TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { force, NUM_LAYERS, NUM_PROMPT, ON_DEVICE, open, SOME } from "./_ahead.ts";
import { onDevice, textIds } from "./_offload.ts";

const TEXT = textIds(190, 320);
const STEPS = TEXT.length - NUM_PROMPT - 1;
/** Keys and values of 32 rows of a layer. */
const PAGE_BYTES = 16_384;

/** What a reply says whose sequence is parked after so many steps; null: never. */
async function report(
  kv: KvRequest,
  tiers: Partial<TierOptions>,
  after: number | null,
): Promise<KvReport> {
  await using opened = await open(tiers, {
    stepped: async ({ runner, kv: cache }, step) => {
      if (step + 1 !== after) return;
      const { settings } = runner.report(0)!;
      const parked = await runner.park(0);
      assert.ok(parked !== null);
      const host = NUM_LAYERS * PAGE_BYTES * Math.ceil((NUM_PROMPT + after) / 32);
      assert.deepEqual(parked.tiers, { device: 0, host, disk: 0 });
      cache.release(0);
      const need = { settings, maxRows: TEXT.length, numRows: NUM_PROMPT + after };
      cache.begin(0, need);
      await runner.begin(0, need);
      await runner.restore(0, parked);
    },
  });
  return (await force(opened, TEXT, kv)).kv!;
}

Deno.test("a sequence that was parked on the device reports all its rows as sent", async () => {
  for (const policy of ["dense", "loki"] as const) {
    assert.equal((await report({ ...SOME, policy }, ON_DEVICE, null)).bytesPerStep, 0);
    const { bytesPerStep } = await report({ ...SOME, policy }, ON_DEVICE, 7);
    const pages = NUM_LAYERS * Math.ceil((NUM_PROMPT + 7) / 32);
    assert.equal(bytesPerStep * STEPS, pages * PAGE_BYTES, policy);
  }
});

Deno.test("a sequence that was parked below the device reports its working set as sent", async () => {
  const kv: KvRequest = { ...SOME, policy: "loki", denseLayers: 0, interval: 4, neighbours: false };
  const plain = await report(kv, onDevice(4), null);
  const parked = await report(kv, onDevice(4), 7);
  const more = (parked.bytesPerStep - plain.bytesPerStep) * STEPS;
  // Sinks and window have a block and two; of the chosen rows all have to come again.
  assert.ok(more >= 3 * NUM_LAYERS * PAGE_BYTES, `${more} bytes`);
  assert.ok(more <= 4 * NUM_LAYERS * PAGE_BYTES + 24 * 2 * NUM_LAYERS * 256, `${more} bytes`);
  assert.equal(parked.rowsPerStep, plain.rowsPerStep);
});
