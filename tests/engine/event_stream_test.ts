import { assert } from "std-testing";
import { EventStream } from "../../src/engine/event_stream.ts";
import type { EngineEvent } from "../../src/engine/types.ts";

function token(id: number): EngineEvent {
  return { type: "token", id, logprob: null };
}

const FAILED: EngineEvent = { type: "error", error: { code: "internal", message: "" } };

Deno.test("EventStream hands over buffered and awaited events in order, then ends", async () => {
  let leaves = 0;
  const stream = new EventStream(() => void leaves++);
  stream.push(token(1));
  const asked = [stream.next(), stream.next(), stream.next(), stream.next()];
  stream.push(token(2));
  stream.push(FAILED);
  stream.push(token(3));
  const done = { done: true, value: undefined };
  assert.deepEqual(await Promise.all(asked), [
    { done: false, value: token(1) },
    { done: false, value: token(2) },
    { done: false, value: FAILED },
    done,
  ]);
  assert.deepEqual(await stream.next(), done);
  await stream.return();
  assert.equal(leaves, 0);
});

Deno.test("EventStream drops its buffer and tells once when its consumer leaves", async () => {
  let leaves = 0;
  const stream = new EventStream(() => void leaves++);
  stream.push(token(1));
  stream.push(token(2));
  for await (const event of stream) {
    assert.deepEqual(event, token(1));
    break;
  }
  stream.push(token(3));
  await stream.return();
  assert.deepEqual(await stream.next(), { done: true, value: undefined });
  assert.equal(leaves, 1);
});

Deno.test("EventStream wakes a consumer that waits when another one leaves", async () => {
  const stream = new EventStream(() => {});
  const waiting = stream.next();
  await stream.return();
  assert.deepEqual(await waiting, { done: true, value: undefined });
});
