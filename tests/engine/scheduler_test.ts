import { assert, fc } from "std-testing";
import { Scheduler, type SchedulerOptions, type Step } from "../../src/engine/scheduler.ts";
import { Sequence } from "../../src/engine/sequence.ts";
import type { EngineEvent } from "../../src/engine/types.ts";
import { PagePool } from "../../src/kv/page_pool.ts";
import { DENSE_KV } from "../_kv.ts";
import { request } from "./_fake_engine.ts";

interface World {
  readonly scheduler: Scheduler;
  readonly pool: PagePool;
  /** Submits a sequence of a length; its events go into the array that comes back. */
  add(numPrompt: number, maxTokens: number): { sequence: Sequence; events: EngineEvent[] };
  /** Takes the next step and carries it out. */
  step(): Step | null;
}

/** @param parks Whether a sequence that gives way is parked; else it is prefilled again. */
function world(
  numPages = 100,
  options: Partial<SchedulerOptions> = {},
  parks = false,
): World {
  const maxSequences = options.maxSequences ?? 3;
  const pool = new PagePool({ numPages, pageSize: 4, numSlots: maxSequences, maxPagesPerSlot: 64 });
  const scheduler = new Scheduler(pool, {
    maxSequences,
    prefillChunk: 16,
    sharedPrefillChunk: 8,
    decodesPerPrefill: 1,
    ...options,
  });
  let arrival = 0;
  let nowMs = 0;
  /** Carries out a sequence's giving way or coming back. */
  const move = (step: Step & { kind: "park" | "restore" }) => {
    const { sequence } = step;
    if (step.kind === "restore") scheduler.restored(sequence);
    else if (parks) {
      // All tokens have rows but the newest, which was sampled, or those of a prompt's rest.
      const numRows = sequence.numTokens - sequence.numPending;
      const tiers = { device: 0, host: 0, disk: 0 };
      scheduler.parked(sequence, { numRows, tiers, [Symbol.dispose]: () => {} });
    } else scheduler.preempt(sequence);
  };
  const next = () => {
    for (;;) {
      const step = scheduler.next(nowMs++);
      scheduler.checkInvariants();
      pool.checkInvariants();
      if (step?.kind !== "park" && step?.kind !== "restore") return step;
      move(step);
      if (parks) return step;
    }
  };
  return {
    scheduler,
    pool,
    add(numPrompt, maxTokens) {
      const events: EngineEvent[] = [];
      const req = request(new Array(numPrompt).fill(1), maxTokens);
      const rules = { push: () => {}, adjustments: () => [] };
      const sequence = new Sequence(
        req,
        DENSE_KV,
        arrival++,
        rules,
        (e) => void events.push(e),
        nowMs,
      );
      scheduler.submit(sequence);
      return { sequence, events };
    },
    step() {
      const step = next();
      if (step?.kind === "prefill") {
        const chunk = step.sequence.prefillChunk(step.count);
        assert.ok(pool.pageCount(chunk.slot) * 4 >= chunk.start + chunk.tokens.length);
        const sampled = chunk.sample === null ? null : { token: 1, logprob: null };
        step.sequence.acceptPrefill(chunk, { sampled, scores: [] }, nowMs);
        if (step.sequence.ended) scheduler.remove(step.sequence);
      } else if (step?.kind === "decode") {
        for (const sequence of step.sequences) {
          const row = sequence.decodeRow();
          assert.ok(pool.pageCount(row.slot) * 4 > row.position);
          sequence.acceptDecode({ token: 1, logprob: null }, nowMs);
          if (sequence.ended) scheduler.remove(sequence);
        }
      }
      return step;
    },
  };
}

/**
 * A step as text: `P0:16` is 16 tokens of sequence 0, `D01` decodes 0 and 1, `down0` parks 0 and
 * `up0` restores it.
 */
function name(step: Step | null): string {
  if (step === null) return "-";
  if (step.kind === "park") return `down${step.sequence.arrival}`;
  if (step.kind === "restore") return `up${step.sequence.arrival}`;
  if (step.kind === "decode") return `D${step.sequences.map((s) => s.arrival).join("")}`;
  if (step.kind === "prefill") return `P${step.sequence.arrival}:${step.count}`;
  return `R${step.sequence.arrival}`;
}

function names(of: World, count: number): string {
  return Array.from({ length: count }, () => name(of.step())).join(" ");
}

Deno.test("Scheduler prefills in whole chunks, then decodes all that run", () => {
  const w = world();
  w.add(20, 3);
  w.add(5, 4);
  assert.equal(names(w, 8), "P0:16 P1:5 D1 P0:4 D01 D01 - -");
  assert.equal(w.pool.usage.pagesInUse, 0);
});

Deno.test("Scheduler lets a running stream wait for one small chunk at a time", () => {
  const w = world();
  w.add(3, 20);
  assert.equal(names(w, 3), "P0:3 D0 D0");
  w.add(30, 2);
  assert.equal(names(w, 10), "P1:8 D0 P1:8 D0 P1:8 D0 P1:6 D01 D0 D0");
});

Deno.test("Scheduler lets short prompts share the chunk that a running stream waits for", () => {
  const w = world(200, { maxSequences: 9, sharedPrefillChunk: 16 });
  w.add(3, 20);
  assert.equal(names(w, 2), "P0:3 D0");
  for (const length of [5, 6, 5, 6]) w.add(length, 9);
  // Whole prompts only: the fourth would be a token too many.
  assert.equal(names(w, 6), "P1:5 P2:6 P3:5 D0123 P4:6 D01234");
  for (let i = 0; i < 4; i++) w.add(1, 9);
  // However short they are, four are enough.
  assert.equal(names(w, 5), "P5:1 P6:1 P7:1 P8:1 D012345678");
});

Deno.test("Scheduler lets a short prompt in after the end of a long one, and not before its turn", () => {
  const w = world(200, { maxSequences: 4, sharedPrefillChunk: 16 });
  w.add(3, 20);
  assert.equal(names(w, 2), "P0:3 D0");
  w.add(40, 9);
  w.add(2, 9);
  assert.equal(names(w, 7), "P1:16 D0 P2:2 D02 P1:16 D02 P1:8");
  w.add(3, 9);
  assert.equal(names(w, 2), "P3:3 D0123");
});

Deno.test("Scheduler takes more decode steps between chunks when told so", () => {
  const w = world(100, { decodesPerPrefill: 3 });
  w.add(3, 20);
  assert.equal(names(w, 4), "P0:3 D0 D0 D0");
  w.add(30, 2);
  assert.equal(names(w, 9), "P1:8 D0 D0 D0 P1:8 D0 D0 D0 P1:8");
});

Deno.test("Scheduler lets long prompts take turns, so that a short one gets through", () => {
  const w = world();
  w.add(60, 1);
  w.add(40, 1);
  w.add(4, 1);
  assert.equal(names(w, 9), "P0:16 P1:16 P2:4 P0:16 P1:16 P0:16 P1:8 P0:12 -");
});

Deno.test("Scheduler admits in order of arrival, when a slot and the pages are there", () => {
  const w = world(6, { maxSequences: 2 });
  const a = w.add(16, 2);
  const b = w.add(16, 2);
  const c = w.add(1, 2);
  // Five pages for the first (16 rows and one more); the third would fit but came later.
  assert.equal(name(w.step()), "P0:16");
  assert.equal(w.scheduler.numWaiting, 2);
  assert.equal(names(w, 6), "D0 P1:16 D1 P2:1 D2 -");
  assert.deepEqual([a, b, c].map(({ sequence }) => sequence.ended), [true, true, true]);
});

Deno.test("Scheduler reserves no row for the last token, and none for an answer of none", () => {
  const w = world(4);
  w.add(16, 1);
  assert.equal(names(w, 2), "P0:16 -");
  w.add(16, 0);
  assert.equal(names(w, 2), "P1:16 -");
});

Deno.test("Scheduler takes the pages of the youngest alone, and prefills it again", () => {
  const w = world(7, { maxSequences: 3 });
  const [a, b, c] = [w.add(7, 12), w.add(7, 8), w.add(7, 8)];
  // Two pages each; both older ones need a third at their ninth row, and one is left.
  assert.equal(names(w, 6), "P0:7 D0 P1:7 D01 P2:7 D01");
  assert.equal(c.sequence.preempted, true);
  assert.deepEqual([a.sequence.preempted, b.sequence.preempted], [false, false]);
  assert.equal(w.scheduler.numWaiting, 1);
  const rest = names(w, 40).replace(/( -)+$/, "");
  assert.match(rest, /P2:8/);
  for (const { sequence, events } of [a, b, c]) {
    assert.equal(sequence.ended, true);
    assert.equal(events.filter(({ type }) => type === "token").length, sequence.request.maxTokens);
  }
  assert.equal(w.pool.usage.pagesInUse, 0);
});

Deno.test("Scheduler parks the youngest alone, which goes on where it was", () => {
  const w = world(7, { maxSequences: 3 }, true);
  const [a, b, c] = [w.add(7, 12), w.add(7, 8), w.add(7, 8)];
  assert.equal(names(w, 7), "P0:7 D0 P1:7 D01 P2:7 down2 D01");
  assert.equal(w.scheduler.numWaiting, 1);
  const rest = names(w, 40).replace(/( -)+$/, "");
  assert.match(rest, /up2 D/);
  assert.doesNotMatch(rest, /P2/);
  for (const { sequence, events } of [a, b, c]) {
    assert.equal(sequence.ended, true);
    assert.equal(events.filter(({ type }) => type === "token").length, sequence.request.maxTokens);
  }
  assert.equal(w.pool.usage.pagesInUse, 0);
});

Deno.test("Scheduler refuses a sequence that has no room even alone", () => {
  const w = world(4);
  const { sequence } = w.add(10, 20);
  const next = w.add(3, 2);
  // 16 rows: the prompt of 10 and 6 tokens; the 17th row does not exist.
  assert.equal(names(w, 9), "P0:10 D0 P1:3 D01 D0 D0 D0 D0 R0");
  assert.equal(next.sequence.ended, true);
  assert.equal(sequence.slot, null);
  assert.equal(w.pool.usage.pagesInUse, 0);
  assert.equal(name(w.step()), "-");
});

Deno.test("Scheduler.remove() frees waiting and running sequences, and ignores others", () => {
  const w = world(100, { maxSequences: 1 });
  const [a, b] = [w.add(20, 2), w.add(20, 2)];
  w.step();
  w.scheduler.remove(b.sequence);
  assert.deepEqual([w.scheduler.numRunning, w.scheduler.numWaiting], [1, 0]);
  w.scheduler.remove(a.sequence);
  w.scheduler.remove(a.sequence);
  assert.deepEqual([w.scheduler.numRunning, w.pool.usage.pagesInUse], [0, 0]);
  assert.equal(name(w.step()), "-");
});

Deno.test("Scheduler refuses settings that make no sense", () => {
  assert.throws(() => world(10, { maxSequences: 0 }), RangeError);
  assert.throws(() => world(10, { sharedPrefillChunk: 1.5 }), RangeError);
});

Deno.test("Scheduler lets a held sequence keep its room until somebody waits for it", () => {
  const w = world(100, { maxSequences: 2 }, true);
  const [a] = [w.add(4, 6), w.add(4, 12)];
  assert.equal(names(w, 4), "P0:4 P1:4 D01 D01");
  w.scheduler.hold(a.sequence, true);
  assert.equal(names(w, 2), "D1 D1");
  assert.equal(w.scheduler.numRunning, 2);
  const c = w.add(4, 3);
  assert.equal(names(w, 5), "down0 P2:4 D12 D12 D1");
  assert.equal(a.sequence.ended, false);
  assert.ok(c.sequence.ended);
  w.scheduler.hold(a.sequence, false);
  const rest = names(w, 12).replace(/( -)+$/, "");
  assert.match(rest, /^up0 D01 /);
  assert.equal(a.events.filter(({ type }) => type === "token").length, 6);
  assert.equal(w.pool.usage.pagesInUse, 0);
});

Deno.test("Scheduler does nothing while all that it has is held", () => {
  const w = world();
  const { sequence } = w.add(20, 4);
  assert.equal(names(w, 1), "P0:16");
  w.scheduler.hold(sequence, true);
  assert.equal(names(w, 2), "- -");
  w.scheduler.hold(sequence, false);
  assert.equal(names(w, 5), "P0:4 D0 D0 D0 -");
});

Deno.test("Scheduler brings every sequence to its end whatever the room", () => {
  bringsToEnd(fc.constant(null));
});

Deno.test("Scheduler brings every sequence to its end, also those that were held", () => {
  const step = fc.integer({ min: 0, max: 40 });
  bringsToEnd(fc.option(fc.record({ from: step, steps: step })));
});

/** @param hold How many steps after its arrival a sequence is held, and for how many. */
function bringsToEnd(hold: fc.Arbitrary<{ from: number; steps: number } | null>) {
  const sequence = fc.record({
    numPrompt: fc.integer({ min: 1, max: 40 }),
    maxTokens: fc.integer({ min: 0, max: 30 }),
    /** Step before which it arrives. */
    at: fc.integer({ min: 0, max: 60 }),
    /** Steps after which it is removed, if it still lives. */
    life: fc.option(fc.integer({ min: 0, max: 40 })),
    hold,
  });
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 30 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 1, max: 3 }),
      fc.array(sequence, { minLength: 1, maxLength: 12 }),
      (numPages, maxSequences, prefillChunk, decodesPerPrefill, plans) => {
        const sharedPrefillChunk = Math.ceil(prefillChunk / 2);
        const w = world(numPages, {
          maxSequences,
          prefillChunk,
          sharedPrefillChunk,
          decodesPerPrefill,
        });
        const plansInOrder = plans.toSorted((a, b) => a.at - b.at);
        const live: { plan: typeof plans[number]; added: ReturnType<World["add"]> }[] = [];
        let decodesOwed = 0;
        /** Tokens and prefill steps since the last decode step. */
        let [tokens, prefills] = [0, 0];
        for (let tick = 0;; tick++) {
          assert.ok(tick < 20_000, "the scheduler runs in circles");
          while (plansInOrder[0] !== undefined && plansInOrder[0].at <= tick) {
            const plan = plansInOrder.shift()!;
            live.push({ plan, added: w.add(plan.numPrompt, plan.maxTokens) });
          }
          for (const { plan, added } of live) {
            if (plan.life !== null && tick > plan.at + plan.life) {
              w.scheduler.remove(added.sequence);
              added.sequence.finish("cancelled", 0);
            }
          }
          let isHeld = false;
          for (const { plan: { at, hold }, added: { sequence } } of live) {
            const held = hold !== null && tick >= at + hold.from &&
              tick < at + hold.from + hold.steps;
            w.scheduler.hold(sequence, held);
            isHeld ||= held;
          }
          const streams = w.scheduler.sequences()
            .filter((s) => s.decodes && s.slot !== null && !s.held);
          const step = w.step();
          // One that had to give up its room waits for longer.
          const wereDecoding = streams.some((s) => s.slot !== null || s.ended);
          if (step === null && plansInOrder.length === 0 && !isHeld) break;
          if (step?.kind === "prefill") {
            assert.ok(step.count <= (wereDecoding ? sharedPrefillChunk : prefillChunk));
            tokens = wereDecoding ? tokens + step.count : 0;
            prefills = wereDecoding ? prefills + 1 : 0;
            // A stream that runs never waits for more than one chunk, which a few prompts may share.
            assert.ok(tokens <= sharedPrefillChunk && prefills <= 4, `${tokens} in ${prefills}`);
            if (prefills > 1) assert.ok(step.sequence.decodes || step.sequence.ended);
            // Nor does the next chunk begin before the stream had its steps.
            else assert.ok(!wereDecoding || decodesOwed === 0);
            decodesOwed = wereDecoding ? decodesPerPrefill : 0;
          } else if (step?.kind === "decode") {
            decodesOwed = Math.max(0, decodesOwed - 1);
            [tokens, prefills] = [0, 0];
          } else if (step?.kind === "refuse") {
            assert.ok(step.sequence.maxRows > numPages * 4);
            step.sequence.fail({ code: "out_of_memory", message: "" });
          }
        }
        for (const { plan, added: { sequence, events } } of live) {
          assert.equal(sequence.ended, true);
          const last = events.at(-1)!;
          assert.equal(events.filter((e) => e.type === "done" || e.type === "error").length, 1);
          if (last.type === "done" && last.reason === "length") {
            const count = events.filter(({ type }) => type === "token").length;
            assert.equal(count, plan.maxTokens);
          }
        }
        assert.equal(w.pool.usage.pagesInUse, 0);
        assert.equal(w.scheduler.numRunning + w.scheduler.numWaiting, 0);
      },
    ),
    { seed: 3, numRuns: 300 },
  );
}
