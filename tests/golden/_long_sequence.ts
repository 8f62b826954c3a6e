/**
 * A sequence of the generated model that is far longer than its part of the device: dense layers
 * lie there as a whole, of each other layer 2 % do.
 *
 * @module
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { KvReport } from "../../src/butler/settings_types.ts";
import { DEFAULT_TIERS, type TierOptions } from "../../src/engine/types.ts";
import { BLOCK_ROWS } from "../../src/kv/slab_pool.ts";
import { assert } from "std-testing";
import { openEngine } from "./_engine.ts";
import { GENERATED, GENERATED_PAGE, generatedModel } from "./_generated.ts";
import { figure } from "./_golden.ts";
import { makeCalibration, makePredictor, NLL_BOUND, textIds, worst } from "./_offload.ts";
import { generate } from "./_requests.ts";

/** Tokens that are fed one by one. */
const FED = 32;
/** Share of a sparse layer's rows that the device has. */
const SHARE = 0.02;

interface Fed {
  readonly nll: readonly number[];
  readonly kv: KvReport | null;
}

/**
 * Runs a sequence on the device as a whole and with 2 % of its sparse layers there, half of the
 * rest on disk.
 *
 * @param sizes Sinks and window: with two blocks they must fit the 2 %.
 */
export async function checkLongSequence(
  length: number,
  sizes: { readonly sinks: number; readonly window: number; readonly budget: number },
): Promise<void> {
  const model = await generatedModel();
  const disk = await Deno.makeTempDir();
  try {
    const calibration = await makeCalibration(model);
    // With one producer for four layers two rows of a step rank so nearly alike that rounding swaps them.
    const predictor = await makePredictor(model, 2);
    const text = textIds(length, GENERATED.vocab);
    const run = async (kv: KvRequest, tiers: Partial<TierOptions>): Promise<Fed> => {
      const began = performance.now();
      await using opened = await openEngine(model, {
        contextLength: length,
        prefillChunk: 512,
        calibration,
        predictor,
        tiers: { ...DEFAULT_TIERS, prefixCache: false, ...tiers },
      });
      const forcedIds = text.slice(length - FED);
      const prompt = text.slice(0, length - FED);
      const answer = await generate(opened.engine, prompt, FED, { forcedIds, logprobs: 0, kv });
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      console.log(`${kv.policy}, ${tiers.deviceBytes ?? "all"} bytes on the device: ${seconds} s`);
      return { nll: answer.logprobs.map((entry) => -entry!.logprob), kv: answer.kv };
    };

    const blocks = Math.ceil((length - 1) / BLOCK_ROWS);
    const sparse = GENERATED.layers - 1;
    const pool = Math.floor(sparse * blocks * SHARE);
    const deviceBytes = (blocks + pool) * GENERATED_PAGE;
    const whole = Math.floor((length - 1) / BLOCK_ROWS) * GENERATED.layers * GENERATED_PAGE;
    const tiers = { deviceBytes, hostBytes: Math.floor(whole / 2), diskDir: disk };
    console.log(
      `${length} tokens: ${whole} bytes; on the device ${blocks} pages of layer 0 and ${pool} of ` +
        `the ${sparse * blocks} of the other layers, on the host at most ${tiers.hostBytes}`,
    );
    const { sinks, window, budget } = sizes;
    const some: KvRequest = { sinks, window, budget: { rows: budget } };
    const dense = await run({ ...some, policy: "dense" }, {});
    const check = (name: string, { nll, kv }: Fed, wanted: Fed) => {
      const off = worst(nll, wanted.nll);
      const { device, host, disk: onDisk } = kv!.tiers;
      console.log(
        `${name}: NLL at most ${figure(off)} off; device ${device}, host ${host}, disk ${onDisk}` +
          ` bytes, ${Math.round(kv!.bytesPerStep)} bytes a step`,
      );
      assert.ok(off <= NLL_BOUND, `${name} is off by ${off}`);
      assert.equal(device, deviceBytes);
      // Blocks are whole: half of them, one more or less.
      const block = GENERATED.layers * GENERATED_PAGE;
      assert.ok(Math.abs(host - onDisk) <= 2 * block, `${host} on the host, ${onDisk} on disk`);
      assert.equal(host + onDisk, whole);
    };
    const covering = { ...some, budget: { rows: length } };
    check("dense", await run({ ...some, policy: "dense" }, tiers), dense);
    for (const policy of ["loki", "tokenbutler"] as const) {
      check(`${policy}, full budget`, await run({ ...covering, policy }, tiers), dense);
      const on = await run({ ...some, policy }, {});
      const below = await run({ ...some, policy }, tiers);
      check(`${policy}, ${budget} rows`, below, on);
      assert.ok(worst(on.nll, dense.nll) > NLL_BOUND, "the rows that are left out do not matter");
      assert.ok(below.kv!.residentShare > 0 && below.kv!.residentShare < 1);
    }
  } finally {
    await Deno.remove(model, { recursive: true });
    await Deno.remove(disk, { recursive: true });
  }
}
