import { assert, fc } from "std-testing";
import { Sequence } from "../../src/engine/sequence.ts";
import type { EngineEvent, GenerateRequest } from "../../src/engine/types.ts";
import { PagePool } from "../../src/kv/page_pool.ts";
import { DENSE_KV } from "../_kv.ts";
import { expected, expectedScores, FakeRunner, prompt, request } from "./_fake_engine.ts";

function start(req: GenerateRequest) {
  const pool = new PagePool({ numPages: 20, pageSize: 4, numSlots: 1, maxPagesPerSlot: 20 });
  const runner = new FakeRunner(pool);
  const events: EngineEvent[] = [];
  const rules = { push: () => {}, adjustments: () => [] };
  const sequence = new Sequence(req, DENSE_KV, 0, rules, (event) => void events.push(event), 0);
  const admit = () => {
    pool.reserve(0, 80);
    sequence.admit(0, 0);
  };
  admit();
  return {
    sequence,
    runner,
    events,
    async prefill(count: number) {
      const chunk = sequence.prefillChunk(Math.min(count, sequence.numPending));
      sequence.acceptPrefill(chunk, await runner.prefill(chunk), 0);
      return chunk;
    },
    async decode() {
      const [sampled] = await runner.decode([sequence.decodeRow()]);
      sequence.acceptDecode(sampled!, 0);
    },
    preempt() {
      pool.release(0);
      sequence.preempt();
      admit();
    },
    scores: () => events.flatMap((event) => event.type === "prompt_logprobs" ? event.entries : []),
    ids: () => events.flatMap((event) => event.type === "token" ? [event.id] : []),
  };
}

Deno.test("Sequence asks for no score twice after it lost its rows in the middle", async () => {
  const req = request(prompt(14), 3, { promptLogprobs: 1 });
  const run = start(req);
  await run.prefill(5);
  await run.prefill(3);
  assert.equal(run.scores().length, 9);
  run.preempt();
  assert.equal((await run.prefill(6)).scoring, null);
  assert.equal(run.scores().length, 9);
  assert.equal((await run.prefill(6)).scoring?.targets.length, 6);
  assert.equal(run.scores().length, 13);
  await run.prefill(6);
  await run.decode();
  // With a part of the answer, of which nothing is scored.
  run.preempt();
  assert.equal((await run.prefill(99)).scoring, null);
  assert.deepEqual(run.scores(), expectedScores(req));
  assert.deepEqual(run.ids(), expected(req).ids);
  const progress = run.events.flatMap((e) => e.type === "prefill" ? [e.processed] : []);
  assert.deepEqual(progress, [5, 8, 12, 14]);
});

Deno.test("Sequence gives the same events however it is cut and interrupted", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 0, max: 8 }),
      fc.array(fc.option(fc.integer({ min: 1, max: 12 })), { maxLength: 20 }),
      async (numPrompt, maxTokens, cuts) => {
        const req = request(prompt(numPrompt), maxTokens, { promptLogprobs: 0 });
        const run = start(req);
        // A cut is the size of a chunk; none takes the rows away.
        for (const cut of [...cuts, ...new Array<number>(40).fill(7)]) {
          if (run.sequence.ended) break;
          if (cut === null) run.preempt();
          else if (run.sequence.decodes) await run.decode();
          else await run.prefill(cut);
        }
        assert.deepEqual(run.scores(), expectedScores(req));
        assert.deepEqual(run.ids(), expected(req).ids);
        assert.equal(run.events.filter(({ type }) => type === "done").length, 1);
      },
    ),
    { seed: 9, numRuns: 200 },
  );
});

Deno.test("Sequence refuses results that do not belong to its step", async () => {
  const run = start(request(prompt(6), 3, { promptLogprobs: 0 }));
  const chunk = run.sequence.prefillChunk(6);
  const result = await run.runner.prefill(chunk);
  const accept = (wrong: Partial<typeof result>) =>
    run.sequence.acceptPrefill(chunk, { ...result, ...wrong }, 0);
  assert.throws(() => accept({ scores: [] }), /0 scores came back/);
  assert.throws(() => accept({ sampled: null }), /no token came back/);
  assert.throws(() => run.sequence.decodeRow(), /does not decode/);
  assert.throws(() => run.sequence.prefillChunk(7), /bad chunk/);
  assert.deepEqual(run.events, []);
});
