import { assert } from "std-testing";
import type { Interrupt } from "../../src/cli/io.ts";
import { nextPause, pause, type ProcessEnd, supervise } from "../../src/cli/supervisor.ts";

/** A supervisor over processes that end as listed; the clock moves while they run and in pauses. */
function open(ends: readonly (ProcessEnd & { readonly ranMs?: number })[]) {
  let nowMs = 0;
  let handler: ((signal: Interrupt) => void) | undefined;
  const lines: string[] = [];
  const pauses: number[] = [];
  const signals: string[] = [];
  let count = 0;
  const running: PromiseWithResolvers<ProcessEnd>[] = [];
  const code = supervise({
    start() {
      const end = ends[count++];
      const ended = Promise.withResolvers<ProcessEnd>();
      running.push(ended);
      if (end !== undefined) {
        nowMs += end.ranMs ?? 0;
        ended.resolve(end);
      }
      return {
        pid: 100 + count,
        ended: ended.promise,
        signal: (name) => void signals.push(name),
      };
    },
    onInterrupt(take) {
      handler = take;
      return { [Symbol.dispose]: () => handler = undefined };
    },
    say: (line, isTrouble) => void lines.push(`${isTrouble ? "trouble: " : ""}${line}`),
    nowMs: () => nowMs,
    pause: (ms) => {
      nowMs += ms;
      pauses.push(ms);
      return Promise.resolve();
    },
  });
  const press = (name: Interrupt) => handler?.(name);
  return { code, lines, pauses, signals, running, press, listens: () => handler !== undefined };
}

const FAILED = { code: 1, signal: null };
const KILLED = { code: 137, signal: "SIGKILL" };

Deno.test("supervise() starts a process again until it ends well", async () => {
  const { code, lines, pauses, listens } = open([FAILED, KILLED, { code: 0, signal: null }]);
  assert.equal(await code, 0);
  assert.deepEqual(pauses, [1000, 2000]);
  assert.deepEqual(lines, [
    "process 101 serves",
    "trouble: process 101 ended with exit code 1 after 0 s; the next one starts in 1 s (start 2 of 10)",
    "process 102 serves",
    "trouble: process 102 ended with SIGKILL after 0 s; the next one starts in 2 s (start 3 of 10)",
    "process 103 serves",
  ]);
  assert.ok(!listens());
});

Deno.test("supervise() does not repeat what cannot work as asked, and says so", async () => {
  const { code, pauses, lines } = open([FAILED, { code: 2, signal: null }]);
  assert.equal(await code, 2);
  assert.deepEqual(pauses, [1000]);
  assert.equal(
    lines.at(-1),
    "trouble: process 102 ended with exit code 2 after 0 s: it cannot work as asked, and is not started again",
  );
});

Deno.test("supervise() gives up a process that never ran for a minute, after four of them in pauses", async () => {
  const { code, pauses, lines } = open(new Array(20).fill({ ...KILLED, ranMs: 1000 }));
  assert.equal(await code, 1);
  assert.equal(pauses.length, 9);
  const waited = pauses.reduce((sum, ms) => sum + ms, 0);
  assert.ok(waited > 180_000 && waited < 300_000, `${waited} ms`);
  assert.equal(
    lines.at(-1),
    "trouble: process 110 ended with SIGKILL after 1 s; none of 10 ran for a minute, and no other is started",
  );
});

Deno.test("supervise() never gives up a process that was well once", async () => {
  const well = { ...FAILED, ranMs: 60_000 };
  const { code, pauses, lines } = open([well, ...new Array(30).fill(FAILED), {
    code: 0,
    signal: null,
  }]);
  assert.equal(await code, 0);
  assert.equal(pauses.length, 31);
  assert.equal(pauses.at(-1), 60_000);
  assert.ok(lines.every((line) => !line.includes("of 10")), lines.join("\n"));
});

Deno.test("supervise() repeats even what cannot work as asked where it has worked before", async () => {
  const { code, pauses } = open([
    { ...KILLED, ranMs: 60_000 },
    { code: 2, signal: null },
    { code: 2, signal: null },
    { code: 0, signal: null },
  ]);
  assert.equal(await code, 0);
  assert.deepEqual(pauses, [1000, 2000, 4000]);
});

Deno.test("supervise() passes every signal on and ends with the process", async () => {
  const { code, signals, running, press } = open([]);
  press("SIGTERM");
  press("SIGTERM");
  running[0]?.resolve({ code: 143, signal: "SIGTERM" });
  assert.equal(await code, 143);
  assert.deepEqual(signals, ["SIGTERM", "SIGTERM"]);
});

Deno.test("pauses double up to a minute, and begin anew after a process that ran for one", async () => {
  const { code, pauses } = open([
    { ...FAILED, ranMs: 60_000 },
    ...new Array(7).fill(FAILED),
    { ...FAILED, ranMs: 60_000 },
    FAILED,
    { code: 0, signal: null },
  ]);
  assert.equal(await code, 0);
  const first = [1, 2, 4, 8, 16, 32, 60, 60].map((seconds) => seconds * 1000);
  assert.deepEqual(pauses, [...first, 1000, 2000]);
  assert.equal(nextPause(null, 0), 1000);
});

Deno.test("pause() ends with its time, or with an abort", async () => {
  const controller = new AbortController();
  await pause(5, controller.signal);
  const long = pause(60_000, controller.signal);
  controller.abort();
  await long;
});
