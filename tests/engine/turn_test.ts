import { assert } from "std-testing";
import { bellTurn, MessageBell, timedTurn } from "../../src/engine/turn.ts";

Deno.test("bellTurn() lasts until every message that was sent is received", async () => {
  const bell = new MessageBell();
  const other = new MessageBell(bell.shared);
  let numReceived = 0;
  const turn = bellTurn(bell, () => numReceived);
  await turn();
  other.ring();
  other.ring();
  let over = false;
  const waiting = turn().then(() => over = true);
  numReceived = 1;
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(over, false);
  numReceived = 2;
  await waiting;
});

Deno.test("bellTurn() gives up on a message that never comes", async () => {
  const bell = new MessageBell();
  bell.ring();
  const begin = performance.now();
  await bellTurn(bell, () => 0)();
  assert.ok(performance.now() - begin >= 50);
});

Deno.test("MessageBell counts on past 32 bits", async () => {
  const bell = new MessageBell();
  new Int32Array(bell.shared)[0] = 2 ** 31 - 1;
  bell.ring();
  const begin = performance.now();
  await bellTurn(bell, () => 2 ** 31)();
  assert.ok(performance.now() - begin < 50);
});

Deno.test("timedTurn() lets timers in although the loop is never idle", async () => {
  const turn = timedTurn();
  let fired = false;
  setTimeout(() => fired = true, 1);
  const begin = performance.now();
  while (!fired && performance.now() - begin < 2000) {
    const until = performance.now() + 2;
    while (performance.now() < until);
    await turn();
  }
  assert.ok(fired);
});
