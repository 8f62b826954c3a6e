/**
 * Rows that are fetched ahead: what a step attends to is what was chosen two steps before, whatever
 * the device has room for.
 */
import { layerRecipe } from "../../src/butler/policies/mod.ts";
import { type ParkedLists, readLists } from "../../src/butler/parked_lists.ts";
import type { KvRequest, KvSettings } from "../../src/butler/settings.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import { Submission } from "../../src/engine/submission.ts";
import type { TierOptions } from "../../src/engine/types.ts";
import { selectionHeader } from "../../src/gpu/ops/selection.ts";
import { Random } from "../gpu/_rig.ts";
import { neighboursReference } from "../reference/neighbours.ts";
import { assert } from "std-testing";
import {
  BESIDE,
  force,
  LONG,
  LONG_PROMPT,
  nll,
  nllOf,
  NUM_LAYERS,
  NUM_PROMPT,
  ON_DEVICE,
  open,
  SOME,
} from "./_ahead.ts";
import { figure } from "./_golden.ts";
import { NLL_BOUND, onDevice, textIds, worst } from "./_offload.ts";
import type { Answer } from "./_requests.ts";

/** What slot 0 picked in every step, and the answer. */
async function record(
  text: readonly number[],
  kv: KvRequest,
  tiers: Partial<TierOptions>,
  layers: readonly number[],
  numPrompt = NUM_PROMPT,
): Promise<{ picks: ParkedLists[]; answer: Answer }> {
  const picks: ParkedLists[] = [];
  const wanted = Array.from({ length: NUM_LAYERS }, (_, layer) => layers.includes(layer));
  await using opened = await open(tiers, {
    stepped: async ({ runner, device }) => {
      const sink = new Submission(device, "picks");
      picks.push(await readLists(device, sink, runner.selection!, 0, wanted));
    },
  });
  return { answer: await force(opened, text, kv, numPrompt), picks };
}

/** Writes lists for the steps to come, for a sequence that lies on the device as a whole. */
function writeLists(
  { runner, kv }: EngineParts,
  settings: KvSettings,
  lists: ParkedLists,
  n: number,
): void {
  const buffers = runner.selection!;
  const { numKvHeads, listCapacity } = buffers.sizes;
  lists.forEach((heads, layer) => {
    const recipe = layerRecipe(settings, layer, n);
    if (heads === null || recipe === "all") return;
    const header = selectionHeader(numKvHeads);
    const words = new Uint32Array(header + numKvHeads * listCapacity);
    words.set([1, recipe.prefix, recipe.windowStart, 0, ...heads.map(({ length }) => length)]);
    heads.forEach((list, head) =>
      list.forEach((position, i) => {
        const page = kv.device.pool.pageOf(layer, 0, Math.floor(position / 32));
        words[header + head * listCapacity + i] = page * 32 + position % 32;
      })
    );
    buffers.writeSelection(layer, 0, words);
  });
}

/**
 * The plain rule, over rows that all lie on the device: the lists of each step are put in place by
 * hand. What is chosen comes from elsewhere.
 */
async function delayed(
  text: readonly number[],
  kv: KvRequest,
  settings: KvSettings,
  picks: readonly ParkedLists[],
  numPrompt = NUM_PROMPT,
): Promise<number[]> {
  const { interval } = settings;
  await using opened = await open(ON_DEVICE, {
    stepped: (parts, done) => {
      // For step done + 1: of the steps that chose, the last one that is two steps back, or the first.
      const chose = Math.max(0, Math.floor((done - 1) / interval) * interval);
      writeLists(parts, settings, picks[chose]!, numPrompt + 1 + chose);
    },
  });
  const { neighbours } = settings;
  return nllOf(await force(opened, text, { ...kv, interval: 1000, neighbours }, numPrompt));
}

Deno.test("ahead, a step attends to what was chosen two steps before", async (t) => {
  const text = textIds(215, 320);
  for (const policy of ["loki", "tokenbutler", "oracle", "quest"] as const) {
    for (const [interval, neighbours] of [[1, false], [3, false], [3, true]] as const) {
      if (policy === "quest" && neighbours) continue;
      const how = `${policy}, interval ${interval}${neighbours ? " with neighbours" : ""}`;
      await t.step(how, async () => {
        const kv: KvRequest = { ...SOME, policy, interval, neighbours, fetch: "ahead" };
        const { picks, answer } = await record(text, kv, onDevice(4), [1, 2]);
        const wanted = await delayed(text, kv, answer.kv!.settings, picks);
        const atOnce = await nll(text, kv, ON_DEVICE);
        const got = nllOf(answer);
        const larger = await nll(text, kv, onDevice(6));
        console.log(
          `${how}: ${figure(worst(got, wanted))} off, with a larger pool ` +
            `${figure(worst(larger, wanted))}, from selections that are used at once ` +
            figure(worst(got, atOnce)),
        );
        assert.ok(worst(got, wanted) <= NLL_BOUND);
        assert.ok(worst(larger, wanted) <= NLL_BOUND);
        assert.ok(worst(got, atOnce) > 10 * NLL_BOUND, "a delay must be seen to be tested");
      });
    }
  }
});

Deno.test("ahead, any sizes: the pool and the disk change nothing", async () => {
  const random = new Random(11);
  const disk = await Deno.makeTempDir();
  for (let turn = 0; turn < 6; turn++) {
    const window = random.int(1, 70);
    const sinks = random.int(0, 40);
    const interval = random.int(1, 5);
    const kv: KvRequest = {
      policy: turn % 2 === 0 ? "loki" : "quest",
      sinks,
      window,
      budget: { rows: random.int(16, 40) },
      interval,
      denseLayers: random.int(0, 2),
      fetch: "ahead",
    };
    const least = Math.ceil(sinks / 32) + Math.ceil((window + interval + 1) / 32) + 2;
    const text = textIds(LONG_PROMPT + 50, 320, turn);
    const tiers = onDevice(least, turn < 3 ? {} : { hostBytes: 0, diskDir: disk });
    const layers = [0, 1, 2].filter((layer) => layer >= kv.denseLayers!);
    const { picks, answer } = await record(text, kv, tiers, layers, LONG_PROMPT);
    const wanted = await delayed(text, kv, answer.kv!.settings, picks, LONG_PROMPT);
    const off = worst(nllOf(answer), wanted);
    console.log(`${JSON.stringify(kv)}, ${least} blocks: ${figure(off)} off`);
    assert.ok(off <= NLL_BOUND, `${JSON.stringify(kv)}: off by ${off}`);
  }
  await Deno.remove(disk, { recursive: true });
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
  for (const fetch of ["in-step", "ahead"] as const) {
    const kv: KvRequest = { ...SOME, policy: "loki", denseLayers: last, interval: 4, fetch };
    const off = await record(text, { ...kv, neighbours: false }, onDevice(4), [last]);
    const on = await record(text, { ...kv, neighbours: true }, onDevice(4), [last]);
    on.picks.forEach((lists, step) => {
      const chose = NUM_PROMPT + 1 + Math.floor(step / 4) * 4;
      lists[last]!.forEach((list, head) => {
        const chosen = [...off.picks[step]![last]![head]!];
        assert.deepEqual([...list], neighboursReference(chosen, chose - SOME.window!, 48));
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
