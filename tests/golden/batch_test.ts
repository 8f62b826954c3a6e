/** Many requests at once, and what a request may ask of the engine, on a tiny model. */
import { DEFAULT_TIERS } from "../../src/engine/types.ts";
import { startEngine } from "../../src/engine/start.ts";
import { GREEDY, type SamplingParams } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine, TINY_OPTIONS } from "./_engine.ts";
import { tinyModel } from "./_golden.ts";
import { compareWithAlone, generate, request, run, runTogether } from "./_requests.ts";

const { path, expected } = await tinyModel("llama31-bf16");

/** With f32 rows sums differ in their last bits only; chance puts tiny logits close together. */
const CLOSE = 1e-4;

/** A prompt of any length, another one for each seed. */
function prompt(length: number, seed: number): number[] {
  return Array.from({ length }, (_, index) => (index * 37 + seed * 101 + 11) % 320);
}

const SAMPLED: SamplingParams = {
  ...GREEDY,
  temperature: 1,
  topK: 60,
  topP: 0.95,
  minP: 0.01,
  repetitionPenalty: 1.1,
  presencePenalty: 0.2,
  seed: 1234,
};

Deno.test("engine gives eight sequences that join and leave the tokens they get alone", async () => {
  let most = 0;
  let shared = 0;
  await using opened = await openEngine(
    path,
    { contextLength: 512, maxSequences: 8 },
    () => ({
      decoded: (rows) => most = Math.max(most, rows.length),
      prefilled: ({ start }) => void (shared += start > 0 ? 1 : 0),
    }),
  );
  const arrivals = [3, 200, 17, 120, 41, 7, 64, 90].map((length, index) => ({
    promptIds: prompt(length, index),
    maxTokens: 64,
    afterTokens: 7,
  }));
  const together = await runTogether(opened.engine, arrivals, { logprobs: 2 });
  assert.equal(most, 8, "the sequences never decoded all at once");
  assert.ok(shared > 0, "no prompt was prefilled in pieces");
  const alone = [];
  for (const { promptIds } of arrivals) {
    alone.push(await generate(opened.engine, promptIds, 64, { logprobs: 2 }));
  }
  const counts = compareWithAlone(together, alone, CLOSE);
  console.log(`tokens compared of each sequence: ${counts.join(", ")}`);
  assert.ok(counts.filter((count) => count >= 32).length >= 4, "too few choices were clear");
  const stats = await opened.engine.stats();
  assert.equal(stats.pagesInUse, 0);
});

for (const hostBytes of [0, null]) {
  const how = hostBytes === 0 ? "prefilled again" : "parked";
  Deno.test(`engine gives the same tokens when sequences are ${how} for want of pages`, async () => {
    await checkGivingWay(hostBytes);
  });
}

/** @param hostBytes Room below the device: without any, sequences are prefilled again. */
async function checkGivingWay(hostBytes: number | null): Promise<void> {
  let prefilled = 0;
  // A page of keys has 8 KiB here, so that eight pages are all there is.
  await using opened = await openEngine(
    path,
    {
      maxSequences: 4,
      kernelOverrides: { maxBindingBytes: "65536" },
      tiers: { ...DEFAULT_TIERS, hostBytes },
    },
    () => ({ prefilled: ({ tokens }) => void (prefilled += tokens.length) }),
  );
  const { engine } = opened;
  assert.equal(engine.info.kv.numPages, 8);
  assert.equal(engine.info.contextLength, 256);
  const arrivals = [20, 40, 9, 33].map((length, index) => ({
    promptIds: prompt(length, index + 20),
    maxTokens: 80,
    afterTokens: 1,
  }));
  const wanted = arrivals.reduce((sum, { promptIds }) => sum + promptIds.length, 0);
  const together = await runTogether(engine, arrivals, { logprobs: 2 });
  if (hostBytes === 0) assert.ok(prefilled > wanted, "nothing was preempted");
  else assert.equal(prefilled, wanted);
  console.log(`${prefilled - wanted} rows were made anew`);
  const alone = [];
  for (const { promptIds } of arrivals) {
    alone.push(await generate(engine, promptIds, 80, { logprobs: 2 }));
  }
  const counts = compareWithAlone(together, alone, CLOSE);
  console.log(`tokens compared of each sequence: ${counts.join(", ")}`);
  assert.ok(Math.max(...counts) >= 40, "too few choices were clear");
}

Deno.test("engine repeats a seeded run and changes it with the seed", async () => {
  const sampling = SAMPLED;
  const ids = [];
  for (let start = 0; start < 2; start++) {
    await using opened = await openEngine(path, { maxSequences: 2 });
    const { engine } = opened;
    for (let turn = 0; turn < 2; turn++) {
      ids.push((await generate(engine, prompt(12, 1), 40, { sampling })).ids);
    }
    const [beside] = await Promise.all([
      run(engine, request(prompt(12, 1), 40, { sampling })),
      run(engine, request(prompt(30, 2), 40, { sampling: { ...sampling, seed: 7 } })),
    ]);
    ids.push(beside.ids);
    const other = await generate(engine, prompt(12, 1), 40, {
      sampling: { ...sampling, seed: 1235 },
    });
    assert.notDeepEqual(other.ids, ids[0]);
  }
  for (const run of ids) assert.deepEqual(run, ids[0]);
});

Deno.test("engine fills the context to its last token and not beyond", async () => {
  await using opened = await openEngine(path, { contextLength: 64 });
  const { engine } = opened;
  const full = await generate(engine, prompt(10, 3), 54);
  assert.equal(full.reason, "length");
  assert.equal(full.ids.length, 54);
  const wholePrompt = await generate(engine, prompt(64, 3), 0);
  assert.equal(wholePrompt.reason, "length");
  assert.deepEqual(wholePrompt.ids, []);
  const beyond = await run(engine, request(prompt(10, 3), 55));
  assert.equal(beyond.error?.code, "invalid_request");
  assert.match(beyond.error.message, /10 tokens and 55 more .* holds 64/);
});

Deno.test("engine feeds forced ids, honours banned ones and minTokens", async () => {
  await using opened = await openEngine(path);
  const { engine } = opened;
  const start = expected.ids.slice(0, 16);
  const greedy = expected.greedy_from_first_16;
  const forcedIds = expected.ids.slice(16, 40);
  const forced = await generate(engine, start, 24, { forcedIds, stopTokenIds: [forcedIds[3]!] });
  assert.deepEqual(forced.ids, forcedIds);
  const first = greedy[0]!;
  const banned = await generate(engine, start, 24, { bannedTokenIds: [first] });
  assert.ok(!banned.ids.includes(first));
  const stopped = await generate(engine, start, 24, { stopTokenIds: [greedy[5]!] });
  assert.equal(stopped.reason, "stop");
  assert.deepEqual(stopped.ids, greedy.slice(0, greedy.indexOf(greedy[5]!) + 1));
  const held = await generate(engine, start, 24, { stopTokenIds: [first], minTokens: 8 });
  assert.ok(held.ids.slice(0, 8).every((id) => id !== first));
});

Deno.test("engine in a worker gives the tokens and log-probabilities of one in process", async () => {
  const options = { ...TINY_OPTIONS, modelPath: path, maxSequences: 4 };
  const wanted = [5, 60, 17].map((length, index) => ({
    promptIds: prompt(length, index + 40),
    maxTokens: 24,
    more: { logprobs: 3, promptLogprobs: 1, sampling: index === 1 ? SAMPLED : GREEDY },
  }));
  const answers = [];
  for (const inProcess of [true, false]) {
    const engine = await startEngine(options, { inProcess });
    try {
      const each = [];
      for (const { promptIds, maxTokens, more } of wanted) {
        each.push(await generate(engine, promptIds, maxTokens, more));
      }
      answers.push(each.map(({ predictedMs: _, ...rest }) => rest));
    } finally {
      await engine.close();
    }
  }
  assert.deepEqual(answers[1], answers[0]);
});
