import { assert } from "std-testing";
import { directRequest, type LoadRequest, runOverHttp } from "../../bench/_http_load.ts";
import type { Engine, GenerateRequest } from "../../src/engine/types.ts";
import { createApp } from "../../src/server/app.ts";
import { serve } from "../../src/server/serve.ts";
import { fakeEngine } from "../engine/_fake_engine.ts";

Deno.test("a load asks the engine the same, directly and through HTTP", async () => {
  const { engine } = fakeEngine();
  const asked: GenerateRequest[] = [];
  const noting = new Proxy(engine as Engine, {
    get(target, key) {
      if (key === "generate") {
        return (request: GenerateRequest) => {
          asked.push(request);
          return target.generate(request);
        };
      }
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const model = { engine: noting, tokenizer: undefined, endIds: new Set([5, 9]) };
  const app = createApp({ model, servedName: "fake", version: "test" });
  const server = await serve(app, { host: "127.0.0.1", port: 0 });
  try {
    const request: LoadRequest = { prompt: [1, 2, 3], tokens: 7, thinkMs: 0 };
    const times = await runOverHttp(server.url, { streams: 1, requests: [request] });
    assert.equal(times.tokens, 7);
    const { id, sampling, ...rest } = asked[0]!;
    assert.equal(id, `${times.ids[0]}-0`);
    // A seed is drawn for everyone who gives none; a greedy choice does not use it.
    const direct = directRequest(id, request, model.endIds);
    assert.deepEqual({ ...sampling, seed: 0 }, direct.sampling);
    assert.deepEqual({ id, sampling, ...rest }, { ...direct, sampling });
  } finally {
    await server.shutdown();
    await engine.close();
  }
});
