import { assert } from "std-testing";
import { resolveFlags, UsageError } from "../../src/cli/flags.ts";
import { lifeFlags, streamPace } from "../../src/cli/life_flags.ts";

const settingsOf = (...args: string[]) => resolveFlags(lifeFlags, args, () => undefined).settings;

Deno.test("flags of life: what holds where nothing is said", () => {
  const settings = settingsOf();
  assert.deepEqual(settings, {
    ssePingInterval: 15,
    stallTimeout: 60,
    drainTimeout: 25,
    hangTimeout: 600,
    supervise: false,
  });
  assert.deepEqual(streamPace(settings), { pingMs: 15_000, slowMs: 2000, stallMs: 60_000 });
});

Deno.test("flags of life: seconds, with a word for never", () => {
  const settings = settingsOf("--sse-ping-interval", "2.5", "--stall-timeout", "0.5");
  assert.deepEqual(streamPace(settings), { pingMs: 2500, slowMs: 2000, stallMs: 500 });
  for (const none of ["0", "-1"]) {
    const never = settingsOf(`--sse-ping-interval=${none}`, "--stall-timeout", "0");
    assert.deepEqual(streamPace(never), { pingMs: null, slowMs: 2000, stallMs: null });
  }
  for (
    const wrong of [
      "--sse-ping-interval=-2",
      "--stall-timeout=-1",
      "--drain-timeout=soon",
      "--hang-timeout=-1",
    ]
  ) {
    assert.throws(() => settingsOf(wrong), UsageError);
  }
});
