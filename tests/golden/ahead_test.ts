/**
 * Rows that are fetched ahead: what a step attends to is what was chosen two steps before, whatever
 * the device has room for. `ahead_long.ts` has more settings.
 */
import type { ParkedLists } from "../../src/butler/parked_lists.ts";
import type { KvRequest } from "../../src/butler/settings.ts";
import { neighboursReference } from "../reference/neighbours.ts";
import { assert } from "std-testing";
import {
  BESIDE,
  force,
  LONG,
  LONG_PROMPT,
  nll,
  NUM_LAYERS,
  NUM_PROMPT,
  ON_DEVICE,
  open,
  SOME,
} from "./_ahead.ts";
import { checkAnySizes, checkDelay, record } from "./_ahead_delay.ts";
import { figure } from "./_golden.ts";
import { NLL_BOUND, onDevice, textIds, worst } from "./_offload.ts";

Deno.test("ahead, a step attends to what was chosen two steps before", async (t) => {
  await checkDelay(t, [
    ["loki", 1, false],
    ["loki", 3, true],
    ["tokenbutler", 3, false],
    ["oracle", 1, false],
    ["quest", 3, false],
    ["loki", [3, 1], false],
    ["tokenbutler", [1, 4], false],
  ]);
});

Deno.test("ahead, any sizes: the pool and the disk change nothing", async () => {
  await checkAnySizes(11, 3);
});

Deno.test("ahead, a step is one submission, and one more for all rows that it fetches", async () => {
  const text = textIds(LONG, 320);
  let submissions = 0;
  let uploads = 0;
  let most = 0;
  let steps = 0;
  await using opened = await open(onDevice(9), {
    stepped: (_parts, step) => {
      const whole = (LONG_PROMPT + 1 + step) % 32 === 0;
      // The first selection is fetched layer by layer, the next one makes room to be read into;
      // whole blocks go to the store.
      if (step > 1 && !whole) {
        assert.ok(submissions <= 2, `${submissions} submissions in step ${step}`);
        assert.ok(uploads <= 1, `${uploads} uploads of rows in step ${step}`);
        most = Math.max(most, uploads);
        steps++;
      }
      submissions = 0;
      uploads = 0;
    },
  });
  const { queue } = opened.parts.device;
  const submit = queue.submit.bind(queue);
  const write = queue.writeBuffer.bind(queue);
  Object.defineProperty(queue, "submit", {
    value: (buffers: GPUCommandBuffer[]) => {
      submissions++;
      submit(buffers);
    },
  });
  Object.defineProperty(queue, "writeBuffer", {
    value: (...args: Parameters<typeof write>) => {
      if (args[0].label === "fetched rows") uploads++;
      write(...args);
    },
  });
  await force(opened, text, { ...BESIDE, policy: "loki", fetch: "ahead" }, LONG_PROMPT);
  assert.ok(steps > 30);
  assert.equal(most, 1);
});

/** Ids of rows that one side has and the other has not, over all steps and heads of a layer. */
function differences(a: readonly ParkedLists[], b: readonly ParkedLists[], layer: number): number {
  assert.equal(a.length, b.length);
  let count = 0;
  a.forEach((lists, step) =>
    lists[layer]!.forEach((list, head) => {
      const other = b[step]![layer]![head]!;
      assert.equal(list.length, other.length);
      const there = new Set(other);
      for (const position of list) if (!there.has(position)) count++;
    })
  );
  return count;
}

Deno.test("ahead, steps choose what they choose in-step", async () => {
  const text = textIds(190, 320);
  // Below the last layer everything is attended to, so that its queries are the same.
  const last = NUM_LAYERS - 1;
  for (const policy of ["loki", "tokenbutler", "quest"] as const) {
    const kv: KvRequest = { ...SOME, policy, denseLayers: last, interval: 1 };
    const inStep = await record(text, { ...kv, fetch: "in-step" }, onDevice(4), [last]);
    const ahead = await record(text, { ...kv, fetch: "ahead" }, onDevice(4), [last]);
    const off = differences(inStep.picks, ahead.picks, last);
    console.log(`${policy}: ${off} rows differ`);
    assert.equal(off, 0);
    assert.ok(ahead.answer.kv!.bytesPerStep > 0);
  }
});

Deno.test("neighbours of chosen rows are those of the plain rule, also ahead", async () => {
  const text = textIds(190, 320);
  const last = NUM_LAYERS - 1;
  for (
    const [fetch, budget] of [
      ["in-step", { rows: 24 }],
      ["ahead", { rows: 24 }],
      ["in-step", { share: 0.3 }],
    ] as const
  ) {
    const more = { policy: "loki", denseLayers: last, interval: 4, fetch, budget } as const;
    const kv: KvRequest = { ...SOME, ...more };
    const off = await record(text, { ...kv, neighbours: false }, onDevice(4), [last]);
    const on = await record(text, { ...kv, neighbours: true }, onDevice(4), [last]);
    on.picks.forEach((lists, step) => {
      const chose = NUM_PROMPT + 1 + Math.floor(step / 4) * 4;
      lists[last]!.forEach((list, head) => {
        const chosen = [...off.picks[step]![last]![head]!];
        const rows = "rows" in budget ? budget.rows : Math.round(budget.share * chose) - 24;
        assert.equal(chosen.length, rows);
        assert.deepEqual([...list], neighboursReference(chosen, chose - SOME.window!, 2 * rows));
      });
    });
    assert.ok(on.answer.kv!.rowsPerStep > off.answer.kv!.rowsPerStep);
  }
});

Deno.test("ahead, settings that cover the context give what dense attention gives", async () => {
  const text = textIds(230, 320);
  const dense = await nll(text, { policy: "dense" }, ON_DEVICE);
  for (const policy of ["dense", "oracle", "quest", "loki", "tokenbutler", "streaming"] as const) {
    const rows: KvRequest = policy === "streaming"
      ? { sinks: 8, window: 300 }
      : { sinks: 8, window: 16, budget: { rows: 300 } };
    for (const blocks of policy === "streaming" ? [12] : [4, 6]) {
      for (const interval of policy === "loki" ? [1, 3] : [1]) {
        const kv: KvRequest = { ...rows, policy, interval, fetch: "ahead" };
        const off = worst(await nll(text, kv, onDevice(blocks)), dense);
        console.log(`${policy}, interval ${interval}, ${blocks} blocks: ${figure(off)} off`);
        assert.ok(off <= NLL_BOUND, `off by ${off}`);
      }
    }
  }
  // On the device as a whole the setting means nothing.
  const kv: KvRequest = { ...SOME, policy: "loki" };
  const inStep = await nll(text, { ...kv, fetch: "in-step" }, ON_DEVICE);
  assert.equal(worst(await nll(text, { ...kv, fetch: "ahead" }, ON_DEVICE), inStep), 0);
});

Deno.test("ahead, the recall meter measures what is attended to", async () => {
  const text = textIds(180, 320);
  const last = NUM_LAYERS - 1;
  const kv: KvRequest = { ...SOME, policy: "oracle", denseLayers: last, recallEvery: 1 };
  await using opened = await open(onDevice(4));
  const inStep = (await force(opened, text, { ...kv, fetch: "in-step" })).kv!.recall!;
  const ahead = (await force(opened, text, { ...kv, fetch: "ahead" })).kv!.recall!;
  console.log(`overlap ${ahead.overlap.toFixed(3)}, mass ${ahead.mass.toFixed(3)}`);
  assert.equal(inStep.overlap, 1);
  assert.ok(ahead.overlap < 1 && ahead.overlap > 0.1, `${ahead.overlap}`);
  assert.ok(ahead.mass < inStep.mass);
});
