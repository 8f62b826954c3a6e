/**
 * The smallest pool has room for the window and not for what comes between two selections: rows that
 * leave it meanwhile are still attended to, wherever they are.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import { assert } from "std-testing";
import { force, nll, nllOf, NUM_PROMPT, ON_DEVICE, open } from "./_ahead.ts";
import { figure } from "./_golden.ts";
import { NLL_BOUND, onDevice, textIds, worst } from "./_offload.ts";
import { request, run } from "./_requests.ts";

const TEXT = textIds(230, 320);
/** A window of whole blocks: one more row and it has no room. */
const SOME: KvRequest = { sinks: 8, window: 32, budget: { rows: 24 }, neighbours: false };
/** Sinks, window and two blocks. */
const SMALLEST = 4;

async function checkSame(name: string, kv: KvRequest, wanted: readonly number[], disk: string) {
  for (
    const [where, tiers] of Object.entries({
      "smallest pool": onDevice(SMALLEST),
      "one block more": onDevice(SMALLEST + 1),
      "rest on disk": onDevice(SMALLEST, { hostBytes: 0, diskDir: disk }),
    })
  ) {
    const off = worst(await nll(TEXT, kv, tiers), wanted);
    console.log(`${name}, ${where}: at most ${figure(off)} off`);
    assert.ok(off <= NLL_BOUND, `${name}, ${where}: off by ${off}`);
  }
}

Deno.test("intervals longer than the window change nothing below the device", async (t) => {
  const disk = await Deno.makeTempDir();
  for (const policy of ["oracle", "quest", "loki", "tokenbutler", "h2o", "snapkv"] as const) {
    for (const interval of policy === "loki" ? [2, 33, 70] : [40]) {
      const name = `${policy}, interval ${interval}`;
      await t.step(name, async () => {
        const kv: KvRequest = { ...SOME, policy, interval };
        await checkSame(name, kv, await nll(TEXT, kv, ON_DEVICE), disk);
      });
    }
  }
  await Deno.remove(disk, { recursive: true });
});

Deno.test("windows below the device begin anywhere in the blocks of the sinks", async () => {
  for (const [sinks, window] of [[1, 31], [1, 5], [40, 20], [31, 1]] as const) {
    const blocks = Math.ceil(sinks / 32) + Math.ceil(window / 32) + 2;
    for (const numPrompt of [1, 33]) {
      const text = textIds(numPrompt + 180, 320, numPrompt);
      const kv: KvRequest = { policy: "streaming", sinks, window };
      const off = worst(
        await nll(text, kv, onDevice(blocks), numPrompt),
        await nll(text, kv, ON_DEVICE, numPrompt),
      );
      const where = `${sinks} sinks, window ${window}, a prompt of ${numPrompt}`;
      assert.ok(off <= NLL_BOUND, `${where}: off by ${off}`);
    }
  }
});

Deno.test("rows that leave a short window between selections stay until the next, also ahead", async () => {
  const disk = await Deno.makeTempDir();
  const roomy = onDevice(SMALLEST + 3);
  for (const policy of ["loki", "quest", "h2o"] as const) {
    for (const interval of [1, 40]) {
      const kv: KvRequest = { ...SOME, policy, interval, fetch: "ahead" };
      await checkSame(`${policy} ahead, ${interval}`, kv, await nll(TEXT, kv, roomy), disk);
    }
  }
  await Deno.remove(disk, { recursive: true });
});

Deno.test("with the smallest window any interval equals dense where settings cover the context", async () => {
  const dense = await nll(TEXT, { policy: "dense" }, ON_DEVICE);
  for (const fetch of ["in-step", "ahead"] as const) {
    const kv: KvRequest = { ...SOME, budget: { rows: 300 }, policy: "loki", interval: 1000, fetch };
    const off = worst(await nll(TEXT, kv, onDevice(SMALLEST)), dense);
    assert.ok(off <= NLL_BOUND, `${fetch}: off by ${off}`);
  }
});

Deno.test("a sequence in the middle of a long interval can be parked between any two steps", async () => {
  for (const policy of ["loki", "h2o"] as const) {
    for (const fetch of ["in-step", "ahead"] as const) {
      const kv: KvRequest = { ...SOME, policy, interval: 50, fetch };
      const wanted = await nll(TEXT, kv, onDevice(SMALLEST));
      // Gives the slot up and takes it again, as the scheduler does.
      await using opened = await open(onDevice(SMALLEST), {
        stepped: async ({ runner, kv: cache }, step) => {
          if (step % 7 !== 0) return;
          const { settings } = runner.report(0)!;
          const parked = await runner.park(0);
          assert.ok(parked !== null);
          cache.release(0);
          const need = { settings, maxRows: TEXT.length, numRows: NUM_PROMPT + 1 + step };
          cache.begin(0, need);
          await runner.begin(0, need);
          await runner.restore(0, parked);
        },
      });
      const off = worst(nllOf(await force(opened, TEXT, kv)), wanted);
      console.log(`${policy}, ${fetch}: ${figure(off)} off`);
      assert.ok(off <= NLL_BOUND, `${policy}, ${fetch}: off by ${off}`);
    }
  }
});

Deno.test("a pool is refused where it lacks a block, and not for an interval", async () => {
  const finish = async (blocks: number, kv: KvRequest) => {
    await using opened = await open(onDevice(blocks));
    return await run(opened.engine, request(TEXT.slice(0, NUM_PROMPT), 60, { kv }));
  };
  for (const more of [{}, { interval: 200 }, { fetch: "ahead" }] as const) {
    const kv: KvRequest = { ...SOME, policy: "loki", ...more };
    assert.equal((await finish(SMALLEST, kv)).error, null);
    const { error } = await finish(SMALLEST - 1, kv);
    assert.equal(error!.code, "out_of_memory");
    assert.match(error!.message, /196608 bytes .* for sinks, window and two blocks a layer/);
  }
});
