import { assert } from "std-testing";
import { withTestEngine } from "../server/_engine.ts";
import { growth, inUse, soak } from "./_soak.ts";

const SEED = 1;
const CLIENTS = 20;
const SECONDS = 6;

const open = withTestEngine();

Deno.test("clients of every kind get what one alone gets, and leave nothing behind", async () => {
  console.log(`soak: seed ${SEED}, ${CLIENTS} clients, ${SECONDS} s; ./run soak takes longer`);
  await using server = await open();
  const { url, model: { engine } } = server;
  const result = await soak({ url, engine, seed: SEED, clients: CLIENTS, seconds: SECONDS });
  const { before, after, outcomes } = result;
  assert.deepEqual(inUse(after), inUse(before));
  assert.ok((outcomes.get("streams: answered") ?? 0) > 0, JSON.stringify([...outcomes]));
  assert.deepEqual(server.logged, []);
});

Deno.test("growth() compares the end with the time after the warm-up", () => {
  const memory = (of: (second: number) => number) =>
    Array.from({ length: 100 }, (_, second) => [second, of(second)] as const);
  assert.equal(growth(memory((second) => second < 20 ? 50 : 100)), 0);
  assert.ok(Math.abs(growth(memory((second) => 100 + second)) - 65 / 130) < 0.02);
});
