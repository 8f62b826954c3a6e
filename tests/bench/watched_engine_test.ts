import { assert } from "std-testing";
import { WatchedEngine } from "../../bench/_watched_engine.ts";
import type { Engine, GenerateRequest } from "../../src/engine/types.ts";
import { fakeEngine, request } from "../engine/_fake_engine.ts";

Deno.test("a watched engine gives the same events, and the time to the first token once", async () => {
  const { engine } = fakeEngine();
  const watched = new WatchedEngine(engine);
  const plain = await Array.fromAsync(engine.generate(request([1, 2, 3], 20)));
  const asked = request([1, 2, 3], 20);
  const begun = performance.now();
  const events = await Array.fromAsync(watched.generate(asked));
  const wholeMs = performance.now() - begun;
  const tokens = (list: typeof plain) =>
    list.flatMap((event) => event.type === "token" ? [event.id] : []);
  assert.deepEqual(tokens(events), tokens(plain));
  assert.equal(events.at(-1)?.type, "done");
  const firstMs = watched.takeFirstMs(asked.id);
  assert.ok(firstMs > 0 && firstMs <= wholeMs, `${firstMs} of ${wholeMs} ms`);
  assert.throws(() => watched.takeFirstMs(asked.id), /no token came/);
  await watched.close();
});

Deno.test("a watched engine tells the time that its engine took", async () => {
  const { engine } = fakeEngine();
  const slow = new Proxy(engine as Engine, {
    get: (target, key) =>
      key !== "generate"
        ? Reflect.get(target, key, target)
        : async function* (asked: GenerateRequest) {
          await new Promise((go) => setTimeout(go, 60));
          yield* target.generate(asked);
        },
  });
  const watched = new WatchedEngine(slow);
  const asked = request([1, 2, 3], 5);
  await Array.fromAsync(watched.generate(asked));
  assert.ok(watched.takeFirstMs(asked.id) >= 55);
  await engine.close();
});

Deno.test("leaving a watched stream cancels the request", async () => {
  const { engine } = fakeEngine();
  const watched = new WatchedEngine(engine);
  const asked = request([1, 2, 3], 200);
  for await (const event of watched.generate(asked)) {
    if (event.type === "token") break;
  }
  while ((await engine.stats()).runningSequences > 0) await new Promise((go) => setTimeout(go, 1));
  assert.ok(watched.takeFirstMs(asked.id) >= 0);
  await watched.close();
});
