import { assert } from "std-testing";
import { openFuzzServer } from "../fuzz/_server.ts";
import { growth, judgeMemory, problemsOf, soak } from "./_soak.ts";

const SEED = 1;
const CLIENTS = 20;
const SECONDS = 6;

Deno.test("clients of every kind get what one alone gets, and leave nothing behind", async () => {
  console.log(`soak: seed ${SEED}, ${CLIENTS} clients, ${SECONDS} s; ./run soak takes longer`);
  await using server = await openFuzzServer({ short: true });
  const target = { url: server.url, keys: [server.key] };
  const result = await soak({ target, seed: SEED, clients: CLIENTS, seconds: SECONDS });
  const { outcomes } = result;
  assert.deepEqual(problemsOf(result), []);
  assert.ok((outcomes.get("streams: answered") ?? 0) > 0, JSON.stringify([...outcomes]));
  // Clients that the server gave up are told so, which is logged.
  assert.deepEqual(server.logged, []);
});

Deno.test("growth() compares the end with the time after the warm-up", () => {
  const memory = (of: (second: number) => number) => Array.from({ length: 100 }, (_, i) => of(i));
  assert.equal(growth(memory((second) => second < 20 ? 50 : 100)), 0);
  assert.ok(Math.abs(growth(memory((second) => 100 + second)) - 65 / 130) < 0.02);
});

Deno.test("judgeMemory() judges no run that is over before memory has settled", () => {
  const growing = Array.from({ length: 100 }, (_, i) => 100 + i);
  const steady = growing.map(() => 100);
  const short = judgeMemory(growing, 0.1);
  assert.equal(short.verdict, "not judged");
  assert.equal(
    short.text,
    "memory was not judged: that takes 10 minutes, and this run had 0.1",
  );
  assert.equal(judgeMemory(growing, 10).verdict, "grew");
  assert.equal(judgeMemory(steady, 10).verdict, "fine");
  assert.equal(judgeMemory(growing, 9.9).verdict, "not judged");
});
