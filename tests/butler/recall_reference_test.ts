/**
 * What the recall meter reports, against plain sums over the queries and keys of its steps: the share of
 * attention that goes to attended rows, and how many of the truly best rows are among the chosen ones.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import { SLIDING } from "../../src/gpu/ops/selection.ts";
import { openEngine } from "../golden/_engine.ts";
import { tinyModel } from "../golden/_golden.ts";
import { makePredictor } from "../golden/_offload.ts";
import { generate } from "../golden/_requests.ts";
import { Random } from "../gpu/_rig.ts";
import { lseReference } from "../reference/mass.ts";
import { scoreReference } from "../reference/score.ts";
import { selectReference } from "../reference/select.ts";
import { Capture, type DeviceLists } from "./_capture.ts";
import { randomProjection } from "./_projection.ts";
import { assert } from "std-testing";

const { path: PATH } = await tinyModel("llama31-bf16");
const PREDICTOR = await makePredictor(PATH);
const NUM_LAYERS = 3;
const PROMPT = 110;
const STEPS = 20;
const EVERY = 3;

/** What a run should report: an entry for each query head or list of each measured step. */
class Truth {
  steps = 0;
  readonly masses: number[] = [];
  readonly overlaps: number[] = [];
  #step = 0;

  async decoded(parts: EngineParts, capture: Capture, position: number): Promise<void> {
    if (++this.#step % EVERY !== 0) return;
    this.steps++;
    for (let layer = 0; layer < NUM_LAYERS; layer++) {
      const lists = await capture.lists(parts, layer);
      if (lists === null) continue;
      const queries = await capture.queries(parts, layer, 0);
      const keys = await capture.keys(parts, layer, position + 1);
      queries.forEach((group, head) => this.#add(lists, head, group, keys[head]!));
    }
  }

  #add(
    { prefix, windowStart, windowRows, picked }: DeviceLists,
    head: number,
    group: readonly (readonly number[])[],
    keys: readonly (readonly number[])[],
  ): void {
    const n = keys.length;
    const start = windowStart === SLIDING ? n - windowRows : windowStart;
    const chosen = new Set(picked[head]);
    const attended = keys.filter((_, row) => row < prefix || row >= start || chosen.has(row));
    for (const query of group) {
      this.masses.push(Math.exp(lseReference(query, attended) - lseReference(query, keys)));
    }
    if (chosen.size === 0) return;
    const scores = keys.slice(prefix, start).map((key) => scoreReference(group, key, 1));
    const best = selectReference(scores, prefix, chosen.size);
    this.overlaps.push(best.filter((row) => chosen.has(row)).length / best.length);
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

Deno.test("the recall meter reports what plain sums give", async (t) => {
  await using projection = await randomProjection(PATH);
  const few = { sinks: 4, window: 9, budget: { rows: 13 } };
  const cases: readonly KvRequest[] = [
    { ...few, policy: "oracle" },
    { ...few, policy: "oracle", interval: 4, neighbours: false },
    { ...few, policy: "loki" },
    { ...few, policy: "tokenbutler", interval: 2, neighbours: false },
    { ...few, policy: "quest", budget: { rows: 60 } },
    { ...few, policy: "h2o", budget: { rows: 14 } },
    { ...few, policy: "snapkv", window: 40 },
    { ...few, policy: "streaming" },
  ];
  for (const kv of cases) {
    const name = `${kv.policy}, interval ${kv.interval ?? 1}`;
    await t.step(name, async () => {
      using capture = new Capture(PROMPT, null);
      const truth = new Truth();
      await using opened = await openEngine(
        PATH,
        { calibration: projection.file, predictor: PREDICTOR },
        (parts) => ({ decoded: ([row]) => truth.decoded(parts, capture, row!.position) }),
      );
      const random = new Random(5);
      const text = Array.from({ length: PROMPT + STEPS }, () => random.int(3, 319));
      const forcedIds = text.slice(PROMPT);
      const answer = await generate(opened.engine, text.slice(0, PROMPT), STEPS, {
        forcedIds,
        kv: { ...kv, recallEvery: EVERY },
      });
      const { mass, overlap, steps } = answer.kv!.recall!;
      const wanted = {
        mass: mean(truth.masses),
        overlap: truth.overlaps.length === 0 ? 1 : mean(truth.overlaps),
      };
      console.log(
        `${name}: mass ${mass.toFixed(4)}, ${wanted.mass.toFixed(4)}; overlap ` +
          `${overlap.toFixed(4)}, ${wanted.overlap.toFixed(4)}`,
      );
      assert.equal(steps, truth.steps);
      assert.equal(steps, Math.floor((STEPS - 1) / EVERY));
      assert.ok(Math.abs(mass - wanted.mass) < 1e-4, `mass is ${mass}, not ${wanted.mass}`);
      // One row of one list may be a near-tie.
      const tie = 1 / (13 * truth.overlaps.length);
      assert.ok(Math.abs(overlap - wanted.overlap) <= tie, `overlap is ${overlap}`);
      assert.ok(mass > 0.05 && mass < 1);
    });
  }
});
