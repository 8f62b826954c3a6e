/**
 * Selections on the device against plain references, step by step: with the queries and keys of a tiny
 * model, and with random ones.
 */
import type { KvRequest, PolicyName } from "../../src/butler/settings.ts";
import { readPredictor } from "../../src/butler/predictor/file.ts";
import { importanceQueries, type Predictor } from "../../src/butler/predictor/predictor.ts";
import { type PredictedModel, producerOf, producersOf } from "../../src/butler/predictor/shape.ts";
import { IMPORTANCE_PAIRS, turnQueries } from "../../src/butler/predictor/turns.ts";
import { openModel } from "../../src/model/open.ts";
import type { RopeConfig } from "../../src/model/types.ts";
import { makePredictor } from "../golden/_offload.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import type { ImportanceKeys } from "../../src/gpu/ops/importance_project.ts";
import { SLIDING } from "../../src/gpu/ops/selection.ts";
import { openEngine } from "../golden/_engine.ts";
import { tinyModel } from "../golden/_golden.ts";
import { generate } from "../golden/_requests.ts";
import { Random } from "../gpu/_rig.ts";
import {
  butlerReference,
  lokiReference,
  oracleReference,
  type PolicyRows,
  type PolicySizes,
  questReference,
  ReceivedAttention,
} from "../reference/policies.ts";
import { selectReference } from "../reference/select.ts";
import { Capture, type DeviceLists } from "./_capture.ts";
import { randomProjection, type TestProjection } from "./_projection.ts";
import { assert } from "std-testing";

const MODEL = "llama31-bf16";
const NUM_LAYERS = 3;
const KV_HEADS = 2;
const PROMPT = 110;
const STEPS = 24;
/** Pieces of the prompt; its last 32 rows lie in two of them. */
const CHUNK = 48;
/** Rows at the prompt's end that snapkv looks at, where its window has so many. */
const OBSERVERS = 32;

type Selecting = Exclude<PolicyName, "dense" | "streaming">;

/** By policy: dense layers, and how far apart scores may be that count as equal, over the largest. */
const POLICIES: Readonly<Record<Selecting, { dense: number; near: number; sizes: PolicySizes }>> = {
  oracle: { dense: 1, near: 1e-6, sizes: { sinks: 4, window: 9, budget: 13 } },
  loki: { dense: 1, near: 1e-3, sizes: { sinks: 4, window: 9, budget: 13 } },
  tokenbutler: { dense: 1, near: 1e-3, sizes: { sinks: 4, window: 9, budget: 13 } },
  quest: { dense: 2, near: 1e-6, sizes: { sinks: 4, window: 9, budget: 60 } },
  h2o: { dense: 1, near: 1e-5, sizes: { sinks: 4, window: 9, budget: 14 } },
  snapkv: { dense: 1, near: 1e-5, sizes: { sinks: 4, window: 40, budget: 13 } },
};

function ids(count: number): number[] {
  const random = new Random(5);
  return Array.from({ length: count }, () => random.int(3, 319));
}

/** Follows one run. */
class Follower {
  readonly #policy: Selecting;
  readonly #sizes: PolicySizes;
  /** By layer. */
  readonly #intervals: readonly number[];
  readonly #capture: Capture;
  readonly #projection: TestProjection;
  readonly #predictor: Predictor;
  readonly #rope: RopeConfig;
  readonly #kept: ImportanceKeys;
  /** (layers, KV heads) */
  readonly #received = Array.from(
    { length: NUM_LAYERS },
    () => Array.from({ length: KV_HEADS }, () => new ReceivedAttention()),
  );
  readonly #last: (DeviceLists | null)[] = [];
  #step = -1;
  rows = 0;
  swapped = 0;

  constructor(
    policy: Selecting,
    sizes: PolicySizes,
    intervals: readonly number[],
    capture: Capture,
    projection: TestProjection,
    predictor: Predictor,
    rope: RopeConfig,
    kept: ImportanceKeys,
  ) {
    this.#policy = policy;
    this.#sizes = sizes;
    this.#intervals = intervals;
    this.#capture = capture;
    this.#projection = projection;
    this.#predictor = predictor;
    this.#rope = rope;
    this.#kept = kept;
  }

  get #layers(): number[] {
    const { dense } = POLICIES[this.#policy];
    return Array.from({ length: NUM_LAYERS - dense }, (_, i) => dense + i);
  }

  async prefilled(parts: EngineParts, start: number, count: number): Promise<void> {
    if (this.#policy !== "h2o" && this.#policy !== "snapkv") return;
    const observers = Math.min(OBSERVERS, this.#sizes.window);
    const first = this.#policy === "h2o" ? 0 : PROMPT - observers;
    if (start + count <= first) return;
    for (const layer of this.#layers) {
      const keys = await this.#capture.keys(parts, layer, start + count);
      for (let row = 0; row < count; row++) {
        const position = start + row;
        if (position < first) continue;
        const queries = await this.#capture.queries(parts, layer, row);
        const attended = Array.from({ length: position + 1 }, (_, i) => i);
        queries.forEach((group, h) => this.#received[layer]![h]!.add(group, keys[h]!, attended));
      }
    }
  }

  async decoded(parts: EngineParts, position: number): Promise<void> {
    this.#step++;
    const once = this.#policy === "snapkv";
    for (const layer of this.#layers) {
      const fresh = once ? this.#step === 0 : this.#step % this.#intervals[layer]! === 0;
      const lists = await this.#capture.lists(parts, layer);
      assert.ok(lists !== null);
      const queries = await this.#capture.queries(parts, layer, 0);
      const keys = await this.#capture.keys(parts, layer, position + 1);
      for (let h = 0; h < KV_HEADS; h++) {
        const data = { queries: queries[h]!, keys: keys[h]! };
        const where = `step ${this.#step}, layer ${layer}, KV head ${h}`;
        if (fresh) {
          this.#compare(await this.#want(parts, layer, h, position, data), lists, h, where);
        }
        this.#accumulate(layer, h, data, lists, fresh);
      }
      if (!fresh) this.#checkKept(layer, lists);
      this.#last[layer] = lists;
    }
  }

  async #want(
    parts: EngineParts,
    layer: number,
    h: number,
    position: number,
    data: Parameters<typeof oracleReference>[1],
  ): Promise<PolicyRows> {
    const sizes = this.#sizes;
    const received = this.#received[layer]![h]!;
    switch (this.#policy) {
      case "oracle":
        return oracleReference(sizes, data);
      case "loki":
        return lokiReference(sizes, data, this.#projection.matrix(layer, h), this.#kept);
      case "tokenbutler": {
        const { shape, producers, keys, turns } = this.#predictor;
        const place = producersOf(shape)[producerOf(shape, layer)!]!;
        const x = await this.#capture.hidden(parts, place.layer, 0);
        const queries = importanceQueries(producers[place.index]!, x);
        const group = data.queries.length;
        const { first, count } = place;
        const perLayer = KV_HEADS * IMPORTANCE_PAIRS;
        const own = turns.slice(first * perLayer, (first + count) * perLayer);
        const { inverseFrequencies } = this.#rope;
        turnQueries(queries, 0, { turns: own, frequencies: inverseFrequencies }, group, position);
        const at = ((layer - place.first) * shape.model.numHeads + h * group) * 16;
        const size = shape.model.headDim * 16;
        const matrix = keys.subarray(
          (layer * KV_HEADS + h) * size,
          (layer * KV_HEADS + h + 1) * size,
        );
        return butlerReference(
          sizes,
          data.keys,
          data.queries.map((_, g) => Array.from(queries.subarray(at + g * 16, at + g * 16 + 16))),
          Array.from(matrix),
          this.#kept,
        );
      }
      case "quest":
        return questReference(sizes, data);
      case "h2o":
        return received.h2o(sizes, data.keys.length);
      case "snapkv":
        return received.snapkv(sizes, data.keys.length);
    }
  }

  #compare(want: PolicyRows, got: DeviceLists, h: number, where: string): void {
    assert.equal(got.prefix, want.prefix, `${where}: prefix`);
    assert.equal(got.windowStart, want.windowStart, `${where}: window`);
    const { unitRows, scores, from, budget } = want;
    const picked = got.picked[h]!;
    const units = picked.filter((_, i) => i % unitRows === 0).map((row) => row / unitRows);
    const rows = units.flatMap((unit) =>
      Array.from({ length: unitRows }, (_, i) => unit * unitRows + i)
    );
    assert.deepEqual(picked, rows, `${where}: whole units, in order`);
    const best = selectReference(scores, from, budget);
    assert.equal(units.length, best.length, `${where}: count`);
    assert.ok(best.length < scores.length, `${where}: there is nothing to choose`);
    const least = Math.min(...best.map((unit) => scores[unit - from]!));
    const sizes = scores.filter((score) => score > -1e29).map(Math.abs);
    const near = POLICIES[this.#policy].near * Math.max(...sizes);
    const others = [
      ...units.filter((unit) => !best.includes(unit)),
      ...best.filter((unit) => !units.includes(unit)),
    ];
    for (const unit of others) {
      const off = Math.abs(scores[unit - from]! - least);
      assert.ok(off <= near, `${where}: ${unit} is off by ${off}, which is no near-tie`);
    }
    this.rows += units.length;
    this.swapped += others.length / 2;
  }

  #accumulate(
    layer: number,
    h: number,
    { queries, keys }: Parameters<typeof oracleReference>[1],
    lists: DeviceLists,
    fresh: boolean,
  ): void {
    if (this.#policy !== "h2o") return;
    const received = this.#received[layer]![h]!;
    const picked = lists.picked[h]!;
    if (fresh) received.evict(lists.windowStart, picked);
    const window = Array.from(
      { length: keys.length - lists.windowStart },
      (_, i) => lists.windowStart + i,
    );
    received.add(queries, keys, [...picked, ...window]);
  }

  #checkKept(layer: number, lists: DeviceLists): void {
    const last = this.#last[layer]!;
    assert.deepEqual(lists.picked, last.picked);
    if (this.#policy === "snapkv") {
      assert.equal(lists.windowStart, SLIDING);
      assert.equal(lists.windowRows, this.#sizes.window);
    } else {
      assert.equal(lists.windowStart, last.windowStart);
    }
  }
}

Deno.test("streaming has sinks and a sliding window on the device, and no lists", async () => {
  const { path } = await tinyModel(MODEL);
  using capture = new Capture(CHUNK, null);
  let steps = 0;
  await using opened = await openEngine(path, { prefillChunk: CHUNK }, (parts) => ({
    decoded: async () => {
      steps++;
      for (const layer of [1, 2]) {
        const lists = await capture.lists(parts, layer);
        assert.deepEqual(lists, {
          prefix: 4,
          windowStart: SLIDING,
          windowRows: 9,
          picked: [[], []],
        });
      }
      assert.equal(await capture.lists(parts, 0), null);
    },
  }));
  const text = ids(PROMPT + STEPS);
  const kv: KvRequest = { policy: "streaming", sinks: 4, window: 9, budget: { rows: 50 } };
  await generate(opened.engine, text.slice(0, PROMPT), STEPS, { kv });
  assert.equal(steps, STEPS - 1);
});

const TINY = (await tinyModel(MODEL)).path;
/** One producer serves both layers that choose, or each has its own. */
const PREDICTORS = [await makePredictor(TINY, 2), await makePredictor(TINY, 1)];

async function sizesOf(
  path: string,
): Promise<{ readonly sizes: PredictedModel; readonly rope: RopeConfig }> {
  const source = await openModel(path);
  const { numLayers, hiddenSize, numHeads, numKvHeads, headDim, rope } = source.config;
  const fingerprint = await source.fingerprint();
  source.close();
  return { sizes: { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim }, rope };
}

async function follow(
  path: string,
  policy: Selecting,
  interval: number | readonly [number, number],
  random: Random | null,
  projection: TestProjection,
  kept: ImportanceKeys,
  rows: PolicySizes = POLICIES[policy].sizes,
): Promise<Follower> {
  using capture = new Capture(CHUNK, random);
  const file = PREDICTORS[random === null ? 0 : 1]!;
  const { sizes, rope } = await sizesOf(path);
  const { predictor } = readPredictor(file, sizes);
  // Of the layers after the first, or of all.
  const own = typeof interval === "number" ? [interval, interval] : interval;
  const intervals = [own[0], ...own];
  const follower = new Follower(
    policy,
    rows,
    intervals,
    capture,
    projection,
    predictor,
    rope,
    kept,
  );
  await using opened = await openEngine(
    path,
    { prefillChunk: CHUNK, calibration: projection.file, predictor: file, importanceKeys: kept },
    (parts) => ({
      prefilled: ({ start, tokens }) => follower.prefilled(parts, start, tokens.length),
      decoded: ([row]) => follower.decoded(parts, row!.position),
    }),
  );
  const { sinks, window, budget } = rows;
  const kv: KvRequest = {
    policy,
    sinks,
    window,
    budget: { rows: budget },
    neighbours: false,
    ...(typeof interval === "number" ? { interval } : {
      interval: 5,
      table: {
        layers: [
          { role: "dense" },
          ...own.map((of) => ({ role: "selected", interval: of } as const)),
        ],
      },
    }),
  };
  const text = ids(PROMPT + STEPS);
  const forcedIds = text.slice(PROMPT);
  await generate(opened.engine, text.slice(0, PROMPT), STEPS, { forcedIds, kv });
  return follower;
}

Deno.test("selections on the device are those of plain references", async (t) => {
  const { path } = await tinyModel(MODEL);
  await using projection = await randomProjection(path);
  const short = ["loki", "tokenbutler"];
  for (const policy of Object.keys(POLICIES) as Selecting[]) {
    for (
      const [interval, data, kept] of [
        [1, "a model's", "f16"],
        [3, "random", "f16"],
        [[3, 1], "random", "f16"],
        [1, "random", "f16"],
        [1, "random", "int8"],
        [1, "a model's", "int8"],
      ] as const
    ) {
      if (kept === "int8" && !short.includes(policy)) continue;
      const form = kept === "int8" ? ", short keys in bytes" : "";
      // Its table has no first dense layers of its own number.
      if (typeof interval !== "number" && POLICIES[policy].dense !== 1) continue;
      await t.step(`${policy}, interval ${interval}, ${data} q and k${form}`, async () => {
        const random = data === "random" ? new Random(17 + [interval].flat()[0]!) : null;
        const { rows, swapped } = await follow(path, policy, interval, random, projection, kept);
        console.log(`${policy}, ${data}: of ${rows} units ${swapped} are near-ties`);
        assert.ok(rows > 0);
        assert.ok(swapped <= rows / 50, `${swapped} of ${rows} units differ`);
      });
    }
  }
});

Deno.test("snapkv looks at no more rows than its window has", async () => {
  const { path } = await tinyModel(MODEL);
  await using projection = await randomProjection(path);
  const few: PolicySizes = { sinks: 4, window: 9, budget: 13 };
  for (const random of [null, new Random(23)]) {
    const { rows, swapped } = await follow(path, "snapkv", 1, random, projection, "f16", few);
    assert.ok(rows > 0 && swapped <= rows / 50, `${swapped} of ${rows} units differ`);
  }
});
