import { assert } from "std-testing";
import { EngineKeeper, EngineLostError } from "../../src/cli/engine_keeper.ts";
import type { Engine } from "../../src/engine/types.ts";
import { FakeEngine } from "../server/_fake.ts";

const LOST = { code: "device_lost", message: "the driver was reset" };

/** A keeper whose engines come up as listed. */
function open(...engines: (FakeEngine | Error | Promise<Engine>)[]) {
  const lines: string[] = [];
  const ending = new AbortController();
  const started: Promise<Engine>[] = [];
  const keeper = new EngineKeeper({
    open() {
      const next = engines.shift();
      return next instanceof Error ? Promise.reject(next) : Promise.resolve(next!);
    },
    onStart(engine) {
      // The server tells clients of it; the command hears of it by itself.
      engine.catch(() => {});
      started.push(engine);
    },
    ending: ending.signal,
    say: (line) => void lines.push(line),
  });
  return { keeper, lines, started, end: () => ending.abort() };
}

const turn = () => new Promise((resolve) => setTimeout(resolve, 5));

Deno.test("EngineKeeper starts a lost engine once more, and tells of the next loss", async () => {
  const [first, second] = [new FakeEngine(), new FakeEngine()];
  const { keeper, lines, started } = open(first, second);
  assert.equal(await keeper.engine, first);
  assert.ok(keeper.isUp);
  first.lose(LOST);
  await turn();
  assert.ok(first.settled);
  assert.equal(await keeper.engine, second);
  assert.equal(started.length, 2);
  assert.ok(keeper.isUp);
  assert.deepEqual(lines, [
    "the engine is lost, and is started once more: the driver was reset",
    "the engine is back",
  ]);
  second.lose({ code: "engine_crashed", message: "out of luck" });
  const error = await keeper.lost;
  assert.ok(error instanceof EngineLostError);
  assert.equal(error.message, "the engine is lost again: out of luck");
  assert.equal(started.length, 2);
  assert.ok(!keeper.isUp);
  await keeper.settle();
});

Deno.test("EngineKeeper tells when a lost engine does not start again", async () => {
  const first = new FakeEngine();
  const { keeper } = open(first, new Error("no adapter"));
  await keeper.engine;
  first.lose(LOST);
  const { message } = await keeper.lost;
  assert.equal(message, "the engine is lost and does not start again: no adapter");
  await keeper.settle();
});

Deno.test("EngineKeeper.settle() waits for an engine that starts, and settles it", async () => {
  const [first, second] = [new FakeEngine(), new FakeEngine()];
  const starting = Promise.withResolvers<Engine>();
  const { keeper } = open(first, starting.promise);
  await keeper.engine;
  first.lose(LOST);
  await turn();
  assert.ok(!keeper.isUp);
  const settling = keeper.settle();
  starting.resolve(second);
  await settling;
  assert.ok(second.settled);
});

Deno.test("EngineKeeper starts nothing for a server that is to end", async () => {
  const first = new FakeEngine();
  const { keeper, started, end } = open(first);
  await keeper.engine;
  end();
  first.lose(LOST);
  await turn();
  assert.equal(started.length, 1);
  await keeper.settle();
  assert.ok(first.settled);
});

Deno.test("EngineKeeper passes on why the first engine does not start", async () => {
  const failure = new Error("no such model");
  const { keeper, started } = open(failure);
  await assert.rejects(keeper.engine, failure);
  assert.equal(started.length, 1);
  await keeper.settle();
});

Deno.test("EngineKeeper starts nothing, and misses nothing, once the server is to end", async () => {
  const [first, second] = [new FakeEngine(), new FakeEngine()];
  const tidied = Promise.withResolvers<void>();
  first.settle = () => tidied.promise;
  const { keeper, started, end } = open(first, second);
  await keeper.engine;
  first.lose(LOST);
  await turn();
  end();
  tidied.resolve();
  await keeper.settle();
  assert.equal(started.length, 1);
  const lost = await Promise.race([keeper.lost, turn().then(() => "nothing")]);
  assert.equal(lost, "nothing");
});
