/** The default model with little device memory for its cache: `--kv-device 10MiB`. @module */
import { DEFAULT_TIERS } from "../../src/engine/types.ts";
import type { PolicyName } from "../../src/butler/settings.ts";
import { assert } from "std-testing";
import { openEngine, type TestEngine } from "./_engine.ts";
import { figure, mean, SMOLLM2_PATH, smollm2Nll } from "./_golden.ts";
import { makePredictor } from "./_offload.ts";
import { generate } from "./_requests.ts";

/** Prompt tokens, and those that are fed one by one: the 1,024 rows of a selection are passed. */
const PROMPT = 1008;
const FED = 32;
const MIB = 2 ** 20;

/** Policies that go on from rows which were prefilled under another one. */
export const BY_KEYS: readonly PolicyName[] = [
  "dense",
  "streaming",
  "oracle",
  "quest",
  "loki",
  "tokenbutler",
];
/** All policies. */
export const BELOW: readonly PolicyName[] = [...BY_KEYS, "h2o", "snapkv"];

/** Starts the default model; the context is as long as it was trained for. */
export async function openSmall(
  kvType: "f16" | "f32",
  deviceMib: number | null,
  prefixCache: boolean,
): Promise<TestEngine> {
  return await openEngine(SMOLLM2_PATH, {
    predictor: await makePredictor(SMOLLM2_PATH, 4),
    kvType,
    contextLength: 8192,
    maxSequences: 1,
    prefillChunk: 256,
    tiers: {
      ...DEFAULT_TIERS,
      prefixCache,
      deviceBytes: deviceMib === null ? null : deviceMib * MIB,
    },
  });
}

/** NLL of the tokens that are fed, and what was done with the cache. */
export async function feedText({ engine }: TestEngine, policy: PolicyName) {
  const { ids } = (await smollm2Nll()).find(({ ids }) => ids.length >= PROMPT + FED)!;
  const forcedIds = ids.slice(PROMPT, PROMPT + FED);
  const answer = await generate(engine, ids.slice(0, PROMPT), FED, {
    forcedIds,
    logprobs: 0,
    kv: { policy },
  });
  const nll = answer.logprobs.map((entry) => -entry!.logprob);
  return { nll, kv: answer.kv, cachedTokens: answer.cachedTokens };
}

/** Each policy, with the default settings, in 10 MiB. */
export async function checkPolicies(
  t: Deno.TestContext,
  opened: TestEngine,
  policies: readonly PolicyName[],
): Promise<void> {
  const { numPages } = opened.parts.kv.device;
  assert.equal(numPages, 14);
  // As much of it as makes whole pages; `doctor` and `/props` say so.
  const { deviceBytes, diskBytes } = opened.engine.info.kv.tiers;
  assert.equal(deviceBytes, 426 * 24_576);
  assert.equal(diskBytes, 0);
  for (const policy of policies) {
    await t.step(policy, async () => {
      const { nll, kv, cachedTokens } = await feedText(opened, policy);
      assert.ok(kv !== null);
      const { device, host } = kv.tiers;
      console.log(
        `${policy}: NLL ${mean(nll).toFixed(4)}, ${device} bytes on the device, ${host} on the ` +
          `host, ${Math.round(kv.rowsPerStep)} rows and ${Math.round(kv.bytesPerStep)} bytes a ` +
          `step, ${figure(kv.residentShare)} of the rows were there, ${cachedTokens} tokens reused`,
      );
      assert.ok(nll.every((value) => Number.isFinite(value)));
      assert.ok(device <= 10 * MIB && host > 20 * MIB);
      assert.equal(kv.policy, policy);
    });
  }
}
