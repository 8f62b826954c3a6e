/** Rows that are fetched ahead, held against a plain replay of the rule. @module */
import { layerRecipe } from "../../src/butler/policies/mod.ts";
import { type ParkedLists, readLists } from "../../src/butler/parked_lists.ts";
import type { KvRequest, KvSettings, PolicyName } from "../../src/butler/settings.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import { Submission } from "../../src/engine/submission.ts";
import type { TierOptions } from "../../src/engine/types.ts";
import { selectionHeader } from "../../src/gpu/ops/selection.ts";
import { Random } from "../gpu/_rig.ts";
import { assert } from "std-testing";
import {
  force,
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
export async function record(
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

/**
 * Writes lists for the steps to come, for a sequence that lies on the device as a whole.
 *
 * @param rows By layer: how many there were when its list was chosen.
 */
function writeLists(
  { runner, kv }: EngineParts,
  settings: KvSettings,
  lists: ParkedLists,
  rows: readonly number[],
): void {
  const buffers = runner.selection!;
  const { numKvHeads, listCapacity } = buffers.sizes;
  lists.forEach((heads, layer) => {
    const recipe = layerRecipe(settings, layer, rows[layer]!);
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
  const { layers, neighbours } = settings;
  await using opened = await open(ON_DEVICE, {
    stepped: (parts, done) => {
      // For step done + 1: of the steps that chose, the last one that is two steps back, or the first.
      const chose = layers.map(({ interval = settings.interval }) =>
        Math.max(0, Math.floor((done - 1) / interval) * interval)
      );
      const lists = chose.map((step, layer) => picks[step]![layer]!);
      writeLists(parts, settings, lists, chose.map((step) => numPrompt + 1 + step));
    },
  });
  const { table, ...others } = kv;
  const asked = typeof table === "object"
    ? { table: { layers: table.layers.map(({ interval: _, ...layer }) => layer) } }
    : {};
  const never = { ...others, ...asked, interval: 1000, neighbours };
  return nllOf(await force(opened, text, never, numPrompt));
}

/** A setting of {@linkcode checkDelay}; with two intervals the last layer has the second. */
export type DelayCase = readonly [
  policy: PolicyName,
  interval: number | readonly [number, number],
  neighbours: boolean,
];

/** Intervals as a request says them. */
function intervalsOf(interval: DelayCase[1]): Pick<KvRequest, "interval" | "table"> {
  if (typeof interval === "number") return { interval };
  const [of, last] = interval;
  const roles = ["dense", "selected"] as const;
  return {
    interval: of,
    table: { layers: [...roles.map((role) => ({ role })), { role: "selected", interval: last }] },
  };
}

/** A step attends to what was chosen two steps before. */
export async function checkDelay(
  t: Deno.TestContext,
  cases: readonly DelayCase[],
): Promise<void> {
  const text = textIds(215, 320);
  for (const [policy, interval, neighbours] of cases) {
    const how = `${policy}, interval ${interval}${neighbours ? " with neighbours" : ""}`;
    await t.step(how, async () => {
      const kv: KvRequest = {
        ...SOME,
        policy,
        ...intervalsOf(interval),
        neighbours,
        fetch: "ahead",
      };
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

/** With any sizes the pool and the disk change nothing. */
export async function checkAnySizes(seed: number, turns: number): Promise<void> {
  const random = new Random(seed);
  const disk = await Deno.makeTempDir();
  for (let turn = 0; turn < turns; turn++) {
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
    const least = Math.ceil(sinks / 32) + Math.ceil(window / 32) + 2;
    const text = textIds(LONG_PROMPT + 50, 320, turn);
    const tiers = onDevice(least, turn % 4 < 2 ? {} : { hostBytes: 0, diskDir: disk });
    const layers = [0, 1, 2].filter((layer) => layer >= kv.denseLayers!);
    const { picks, answer } = await record(text, kv, tiers, layers, LONG_PROMPT);
    const wanted = await delayed(text, kv, answer.kv!.settings, picks, LONG_PROMPT);
    const off = worst(nllOf(answer), wanted);
    console.log(`${JSON.stringify(kv)}, ${least} blocks: ${figure(off)} off`);
    assert.ok(off <= NLL_BOUND, `${JSON.stringify(kv)}: off by ${off}`);
  }
  await Deno.remove(disk, { recursive: true });
}
