import { assert } from "std-testing";
import { Pulse, watchPulse } from "../../src/engine/pulse.ts";
import { timedTurn } from "../../src/engine/turn.ts";
import { fakeEngine, prompt, request } from "./_fake_engine.ts";

const HANG_MS = 160;

const pauseMs = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Watches a pulse, and tells after how many milliseconds it was said to hang, if it was. */
function watch(pulse: Pulse) {
  const began = performance.now();
  let tookMs: number | null = null;
  const watching = watchPulse(pulse, HANG_MS, () => tookMs = performance.now() - began);
  return { tookMs: () => tookMs, [Symbol.dispose]: () => watching[Symbol.dispose]() };
}

Deno.test("watchPulse() tells of an engine at work that completes nothing, once", async () => {
  const pulse = new Pulse();
  let told = 0;
  const began = performance.now();
  pulse.work();
  using _watching = watchPulse(pulse, HANG_MS, () => told++);
  while (told === 0) await pauseMs(5);
  assert.ok(performance.now() - began >= HANG_MS * 0.8);
  await pauseMs(2 * HANG_MS);
  assert.equal(told, 1);
});

Deno.test("watchPulse() leaves an engine alone that rests, or completes something now and then", async () => {
  const [resting, moving] = [new Pulse(), new Pulse()];
  moving.work();
  using first = watch(resting);
  using second = watch(new Pulse(moving.shared));
  for (let i = 0; i < 12; i++) {
    await pauseMs(HANG_MS / 4);
    moving.beat();
  }
  assert.deepEqual([first.tookMs(), second.tookMs()], [null, null]);
});

Deno.test("watchPulse() takes no busy isolate for a hang", async () => {
  const pulse = new Pulse();
  pulse.work();
  using watching = watch(pulse);
  const until = performance.now() + 3 * HANG_MS;
  while (performance.now() < until);
  // Looks that were missed are no looks.
  await pauseMs(1);
  assert.equal(watching.tookMs(), null);
});

Deno.test("LocalEngine is at work while it makes tokens, and not while all that it has is held", async () => {
  const { engine, runner } = fakeEngine();
  const pulse = new Pulse();
  engine.setTurn(timedTurn(), pulse);
  const counts: number[] = [];
  runner.before = () => {
    assert.ok(pulse.isAtWork);
    counts.push(pulse.count);
  };
  const asked = request(prompt(9), 200);
  const stream = engine.generate(asked);
  assert.equal((await stream.next()).done, false);
  engine.hold(asked.id, true);
  while (pulse.isAtWork) await pauseMs(1);
  const { count } = pulse;
  await pauseMs(20);
  assert.equal(pulse.count, count);
  engine.hold(asked.id, false);
  assert.ok(pulse.isAtWork);
  for await (const _ of stream);
  while (pulse.isAtWork) await pauseMs(1);
  // A beat between any two steps.
  assert.equal(new Set(counts).size, counts.length);
  await engine.close();
});
