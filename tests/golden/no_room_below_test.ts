/**
 * Sequences that do not fit the device together where there is no room below it: none of them can be
 * parked. What a new prefill makes again is given up and made again, anything else is an error of the
 * one that has to give way.
 */
import type { PolicyName } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine, type TestEngine } from "./_engine.ts";
import {
  makeCalibration,
  NLL_BOUND,
  offloadedModel,
  onDevice,
  textIds,
  worst,
} from "./_offload.ts";
import { type Answer, request, run } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PATH = await offloadedModel();

/** An engine without a lower tier; `given` counts the times that a sequence could not be parked. */
async function open(policy: PolicyName, blocks: number) {
  let given = 0;
  const opened = await openEngine(PATH, {
    contextLength: 256,
    maxSequences: 3,
    prefillChunk: 16,
    kv: { policy, sinks: 8, window: 16, budget: { rows: 16 } },
    calibration: CALIBRATION,
    tiers: { ...DEFAULT_TIERS, ...onDevice(blocks), hostBytes: 0, prefixCache: false },
  });
  const { runner } = opened.parts;
  const park = runner.park.bind(runner);
  runner.park = async (slot) => {
    const parked = await park(slot);
    given += Number(parked === null);
    return parked;
  };
  return { opened, given: () => given };
}

function start(
  { engine }: TestEngine,
  text: readonly number[],
  numPrompt: number,
  onToken?: (count: number) => void,
): Promise<Answer> {
  const forcedIds = text.slice(numPrompt);
  const more = { forcedIds, logprobs: 0 };
  return run(engine, request(text.slice(0, numPrompt), forcedIds.length, more), onToken);
}

function nll({ error, logprobs }: Answer): number[] {
  assert.equal(error, null);
  return logprobs.map((entry) => -entry!.logprob);
}

function assertSame(answer: Answer, alone: Answer): void {
  const off = worst(nll(answer), nll(alone));
  assert.ok(off <= NLL_BOUND, `off by ${off}`);
}

Deno.test("who cannot be parked is made again or fails alone", async () => {
  const texts = [0, 1, 2].map((n) => textIds(120 + 20 * n, 300 - n));
  for (const policy of ["dense", "loki", "h2o"] as const) {
    const { opened, given } = await open(policy, 8);
    await using _closed = opened;
    const together = await Promise.all(texts.map((text) => start(opened, text, 60)));
    assert.ok(given() > 0, "nobody had to give way");
    const failed = together.filter(({ error }) => error !== null);
    for (const { error } of failed) {
      assert.equal(error!.code, "out_of_memory");
      assert.match(error!.message, /no room below it: give more with --kv-host or --kv-disk/);
    }
    assert.equal(failed.length > 0, policy !== "dense");
    assert.ok(failed.length < texts.length);
    assert.equal(opened.parts.kv.usage.pagesInUse, 0);
    // Who failed runs alone, and the others gave what they give alone.
    for (const [i, text] of texts.entries()) {
      const alone = await start(opened, text, 60);
      nll(alone);
      if (together[i]!.error === null) assertSame(together[i]!, alone);
    }
  }
});

Deno.test("a prompt that has to give way is prefilled again, under every policy", async () => {
  // The older one needs a second block while the younger one is prefilled, and there are seven.
  const [older, younger] = [textIds(80, 320, 1), textIds(170, 320, 2)];
  for (const policy of ["dense", "loki", "quest", "h2o", "snapkv"] as const) {
    const { opened, given } = await open(policy, 7);
    await using _closed = opened;
    const begun = Promise.withResolvers<void>();
    const first = start(opened, older, 26, (count) => count === 2 && begun.resolve());
    await begun.promise;
    const second = await start(opened, younger, 160);
    assert.ok(given() > 0, `${policy}: nobody had to give way`);
    assertSame(await first, await start(opened, older, 26));
    assertSame(second, await start(opened, younger, 160));
  }
});
