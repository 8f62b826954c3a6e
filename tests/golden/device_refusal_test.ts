/**
 * Device memory that is refused to a request: it gets a clear error, the one beside it gives what it
 * gives alone, and the next request is served.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine, type TestEngine } from "./_engine.ts";
import { makeCalibration, NLL_BOUND, offloadedModel, textIds, worst } from "./_offload.ts";
import { type Answer, request, run } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PATH = await offloadedModel();

/** Larger than any device has. */
const TOO_MUCH = 2 ** 50;

const SMALL: KvRequest = { policy: "loki", sinks: 4, window: 12, budget: { rows: 20 } };
const OTHER = { text: textIds(100, 320, 3), prompt: 60, kv: SMALL };
/** It needs more pages for what is kept of its rows, and longer lists. */
const VICTIM = {
  text: textIds(330, 320, 5),
  prompt: 320,
  kv: { ...SMALL, budget: { rows: 270 } },
};

function open(): Promise<TestEngine> {
  return openEngine(PATH, {
    contextLength: 384,
    maxSequences: 2,
    calibration: CALIBRATION,
    tiers: { ...DEFAULT_TIERS, prefixCache: false },
  });
}

function start(
  { engine }: TestEngine,
  { text, prompt, kv }: typeof OTHER,
  onToken?: (count: number) => void,
): Promise<Answer> {
  const forcedIds = text.slice(prompt);
  const more = { forcedIds, logprobs: 0, kv };
  return run(engine, request(text.slice(0, prompt), forcedIds.length, more), onToken);
}

function nll(answer: Answer): number[] {
  assert.equal(answer.error, null);
  return answer.logprobs.map((entry) => -entry!.logprob);
}

for (const label of ["importance 1", "selection", "picked"]) {
  Deno.test(`device memory for "${label}" that is refused is the error of its request`, async () => {
    const expected: number[][] = [];
    {
      await using opened = await open();
      for (const which of [OTHER, VICTIM]) expected.push(nll(await start(opened, which)));
    }
    await using opened = await open();
    const { device } = opened.parts;
    const create = device.createBuffer.bind(device);
    let victim: Promise<Answer> | undefined;
    const begun = Promise.withResolvers<void>();
    const beside = start(opened, OTHER, (count) => {
      if (count !== 2) return;
      device.createBuffer = (descriptor) =>
        create(descriptor.label === label ? { ...descriptor, size: TOO_MUCH } : descriptor);
      victim = start(opened, VICTIM);
      begun.resolve();
    });
    try {
      await begun.promise;
      const failed = await victim!;
      assert.equal(failed.error?.code, "out_of_memory", failed.error?.message);
      assert.match(failed.error.message, /the device has no room/);
      const off = worst(nll(await beside), expected[0]!);
      assert.ok(off <= NLL_BOUND, `the other sequence is off by ${off}`);
    } finally {
      device.createBuffer = create;
    }
    for (const [index, which] of [OTHER, VICTIM].entries()) {
      const off = worst(nll(await start(opened, which)), expected[index]!);
      assert.ok(off <= NLL_BOUND, `a later request is off by ${off}`);
    }
  });
}
