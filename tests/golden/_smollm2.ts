/**
 * Checks of the default model that run in a short form with the suite and in a long one on demand.
 *
 * @module
 */
import type { Engine } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine, type TestEngine } from "./_engine.ts";
import { figure, mean, type NllExpected, SMALL_MARGIN, SMOLLM2_PATH } from "./_golden.ts";
import {
  type Arrival,
  compareWithAlone,
  generate,
  runTogether,
  scoreByEcho,
  scoreByForcing,
} from "./_requests.ts";

/** How far the mean NLL of a text may be off, as the project promises it. */
const NLL_BOUNDS = { f16: 0.005, f32: 0.0005 } as const;

/** Starts the default model. */
export function openSmollm2(
  kvType: "f16" | "f32",
  contextLength: number,
  maxSequences: number,
): Promise<TestEngine> {
  return openEngine(SMOLLM2_PATH, { kvType, contextLength, maxSequences, prefillChunk: 256 });
}

/** Scores a text by echo, then its second half by teacher forcing. */
export async function checkNll(
  t: Deno.TestContext,
  engine: Engine,
  { name, ids, nll, mean: wanted }: NllExpected,
): Promise<void> {
  const { type } = engine.info.kv;
  const bound = NLL_BOUNDS[type];
  const check = (way: string, got: readonly number[], first: number, mean_: number) => {
    assert.equal(got.length, nll.length - first);
    const off = mean(got) - mean_;
    console.log(
      `${name}, ${type} KV, ${way}: mean NLL ${mean(got).toFixed(5)}, ${figure(off)} off`,
    );
    assert.ok(Math.abs(off) <= bound, `${way}: mean NLL is off by ${off}`);
  };
  await t.step(`by echo, ${type} KV, ${ids.length} tokens`, async () => {
    check("echo", await scoreByEcho(engine, ids), 0, wanted);
  });
  const half = ids.length / 2;
  await t.step(`one by one, ${type} KV, the last ${half} of ${ids.length} tokens`, async () => {
    // The log-probability of token i is the stored entry i - 1.
    const first = half - 1;
    check("one by one", await scoreByForcing(engine, ids, half), first, mean(nll.slice(first)));
  });
}

/**
 * Both ways at once, at half the cost: the first half of a text by echo, the second one by one.
 * Every token is scored, each in one way.
 */
export async function checkNllInHalves(
  engine: Engine,
  { name, ids, nll }: NllExpected,
): Promise<void> {
  const { type } = engine.info.kv;
  const half = ids.length / 2;
  const forcedIds = ids.slice(half);
  const { logprobs, promptLogprobs } = await generate(engine, ids.slice(0, half), half, {
    forcedIds,
    logprobs: 0,
    promptLogprobs: 0,
  });
  const halves = {
    echo: [promptLogprobs.slice(1), nll.slice(0, half - 1)],
    "one by one": [logprobs, nll.slice(half - 1)],
  } as const;
  for (const [way, [got, wanted]] of Object.entries(halves)) {
    assert.equal(got.length, wanted.length);
    const off = mean(got.map((entry) => -entry!.logprob)) - mean(wanted);
    console.log(`${name}, ${type} KV, half by ${way}: mean NLL ${figure(off)} off`);
    assert.ok(Math.abs(off) <= NLL_BOUNDS[type], `${way}: mean NLL is off by ${off}`);
  }
}

/**
 * Runs sequences together and each alone, and holds the tokens against each other.
 *
 * @param least How much has to be compared, since close choices may end a comparison: tokens of
 * each sequence, and a share of all tokens.
 */
export async function checkTogether(
  engine: Engine,
  arrivals: readonly Arrival[],
  least: { readonly tokens: number; readonly share: number },
): Promise<void> {
  const logprobs = 2;
  const together = await runTogether(engine, arrivals, { logprobs });
  const alone = [];
  for (const { promptIds, maxTokens } of arrivals) {
    alone.push(await generate(engine, promptIds, maxTokens, { logprobs }));
  }
  const counts = compareWithAlone(together, alone, SMALL_MARGIN);
  const share = counts.reduce((a, b) => a + b, 0) /
    arrivals.reduce((sum, { maxTokens }) => sum + maxTokens, 0);
  console.log(`tokens compared of each sequence: ${counts.join(", ")}`);
  assert.ok(Math.min(...counts) >= least.tokens, "too little of a sequence was compared");
  assert.ok(share >= least.share, `only ${share} of all tokens were compared`);
}
