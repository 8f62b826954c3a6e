/** The default model against stored answers. `deno task test:long` has the longer texts. */
import { assert } from "std-testing";
import { LogitReader, openEngine } from "./_engine.ts";
import {
  figure,
  maxError,
  numCertain,
  SMALL_MARGIN,
  SMOLLM2_LOGIT_BOUND,
  SMOLLM2_PATH,
  smollm2Nll,
  smollm2Prompts,
} from "./_golden.ts";
import { request, run } from "./_requests.ts";
import { checkNllInHalves, checkTogether, openSmollm2 } from "./_smollm2.ts";

const EVERY = 4096;

/** How the stored answers were made: so many tokens, or up to the end token and with it. */
const MAX_TOKENS = 48;
const END = 2;

Deno.test("default model gives the reference's logits and greedy tokens", async () => {
  const prompts = await smollm2Prompts();
  /** Logits at the end of each prompt, by slot. */
  const logits = new Map<number, Float32Array>();
  let reader: LogitReader | undefined;
  await using opened = await openEngine(
    SMOLLM2_PATH,
    { kvType: "f16", contextLength: 512, maxSequences: 8, prefillChunk: 256 },
    async (parts) => {
      reader = await LogitReader.create(parts);
      return {
        prefilled: async ({ slot, sample }) => {
          if (sample !== null) logits.set(slot, await reader!.first());
        },
      };
    },
  );
  const { engine } = opened;
  const answers = await Promise.all(
    prompts.map(({ ids }) => run(engine, request(ids, MAX_TOKENS, { stopTokenIds: [END] }))),
  );
  reader?.[Symbol.dispose]();
  // All fit at once, so each has the slot of its turn.
  for (const [slot, expected] of prompts.entries()) {
    const { name, last_top20_ids, last_top20_logits } = expected;
    const row = logits.get(slot)!;
    const top = maxError(last_top20_ids.map((id) => row[id]!), last_top20_logits);
    const spread = maxError(
      row.filter((_, id) => id % EVERY === 0),
      expected.last_logits_every_4096th,
    );
    const sum = Math.abs(logSumExp(row) - expected.last_logsumexp);
    const answer = answers[slot]!;
    assert.equal(answer.error, null);
    const count = numCertain(expected.greedy_margins, SMALL_MARGIN);
    const same = expected.greedy_ids.findIndex((id, index) => id !== answer.ids[index]);
    console.log(
      `${name}: logits off by ${figure(top)} (top 20), ${figure(spread)} (every ${EVERY}th), ` +
        `${figure(sum)} (logsumexp); greedy tokens equal: ` +
        `${same < 0 ? expected.greedy_ids.length : same} of ${expected.greedy_ids.length}`,
    );
    for (const [what, off] of Object.entries({ top, spread, sum })) {
      assert.ok(off <= SMOLLM2_LOGIT_BOUND, `${name}: ${what} is off by ${off}`);
    }
    assert.deepEqual(answer.ids.slice(0, count), expected.greedy_ids.slice(0, count), name);
    if (count === expected.greedy_ids.length) {
      assert.equal(answer.ids.length, count);
      assert.equal(answer.reason, count < MAX_TOKENS ? "stop" : "length");
    }
  }
});

Deno.test("default model with f16 KV gives the reference's NLL; batches change nothing", async (t) => {
  const text = (await smollm2Nll())[0]!;
  await using opened = await openSmollm2("f16", 512, 4);
  await checkNllInHalves(opened.engine, text);
  await t.step("three sequences that join and leave give the tokens they give alone", async () => {
    await checkTogether(
      opened.engine,
      [3, 30, 17].map((length, index) => ({
        promptIds: text.ids.slice(index * 100, index * 100 + length),
        maxTokens: 10,
        afterTokens: 3,
      })),
      // Clear choices before the first close one: 4, 10, 8 of 10.
      { tokens: 4, share: 0.7 },
    );
  });
});

function logSumExp(values: Float32Array): number {
  const most = values.reduce((a, b) => Math.max(a, b));
  let sum = 0;
  for (const value of values) sum += Math.exp(value - most);
  return most + Math.log(sum);
}
