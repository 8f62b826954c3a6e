/** What is read of selections on the device, against the truth over the queries and keys read there. */
import { resolveKv } from "../../src/butler/settings.ts";
import type { KvRequest } from "../../src/butler/settings.ts";
import { openKeys, readKeys } from "../../src/butler/calibration/read_keys.ts";
import { headShare, headTruth } from "../../src/eval/recall.ts";
import { RowScorer } from "../../src/eval/rows.ts";
import { SelectionReader } from "../../src/eval/selections.ts";
import { openModel } from "../../src/model/open.ts";
import { openEngine } from "./_engine.ts";
import { makeCalibration, makePredictor, offloadedModel, textIds } from "./_offload.ts";
import { assert } from "std-testing";

const ROWS = { sinks: 4, window: 9, budget: 13 };
const TOKENS = 200;
const POSITIONS = [120, 121, 130, 155, 163, 164, 190, 199];
const HEADS = 2;

Deno.test("selections of rows beside dense attention", async () => {
  const path = await offloadedModel();
  const source = await openModel(path);
  source.close();
  const { config } = source;
  await using many = await openEngine(path, {
    calibration: await makeCalibration(),
    predictor: await makePredictor(),
    maxSequences: 3,
  });
  const { parts } = many;
  using reader = new SelectionReader(parts, config);
  using keys = await openKeys(parts, config);
  const scorer = new RowScorer(parts, TOKENS);
  const ids = textIds(TOKENS, config.vocabSize);
  const few = { ...ROWS, budget: { rows: ROWS.budget } };
  const group = config.numHeads / HEADS;
  const firsts: Float32Array[] = [];
  for (const policy of ["oracle", "loki", "tokenbutler", "quest", "streaming"] as const) {
    const kv: KvRequest = policy === "streaming"
      ? { policy, sinks: 4, window: 22 }
      : { policy, ...few };
    const { settings } = resolveKv(kv, { numLayers: config.numLayers, numKvHeads: HEADS }, {
      fits: true,
      canProject: true,
      canPredict: true,
    });
    let step = 0;
    await scorer.visit(ids, POSITIONS, settings, async (rows) => {
      for (let layer = 0; layer < config.numLayers; layer++) {
        const queries = await reader.queries(layer, rows.length);
        const attended = await reader.attended(layer, rows);
        const all: Float32Array = await readKeys(keys, 0, layer, 0, TOKENS);
        if (settings.layers[layer]!.role === "dense") {
          assert.ok(attended.every((of) => of === null), `${policy}, layer ${layer}`);
          continue;
        }
        // Every row attends to everything: queries do not depend on the policy.
        if (layer === config.numLayers - 1) {
          const first = firsts[step] ??= queries;
          assert.ok(queries.every((value, i) => Math.abs(value - first[i]!) < 1e-4), policy);
        }
        for (const [row, { position }] of rows.entries()) {
          const of = attended[row]!;
          const n = position + 1;
          if (policy === "streaming") {
            assert.deepEqual(of, {
              prefix: 4,
              windowStart: n - 22,
              lists: [new Uint32Array(0), new Uint32Array(0)],
            });
            continue;
          }
          for (let head = 0; head < HEADS; head++) {
            const at = (row * config.numHeads + head * group) * config.headDim;
            const own = queries.subarray(at, at + group * config.headDim);
            const from = head * TOKENS * config.headDim;
            const mine = all.subarray(from, from + TOKENS * config.headDim);
            const truth = headTruth(own, mine, config.headDim, n, ROWS)!;
            const where: string = `${policy}, layer ${layer}, row ${position}, head ${head}`;
            const share = headShare(truth, of, head);
            assert.ok(share.mass > 0 && share.mass < 1.0001, where);
            if (policy === "quest") {
              assert.equal(of.prefix, 0);
              assert.equal(of.windowStart, Math.floor(position / 16) * 16);
              continue;
            }
            assert.deepEqual([of.prefix, of.windowStart], [4, n - 9], where);
            assert.equal(of.lists[head]!.length, ROWS.budget, where);
            if (policy !== "oracle") continue;
            assert.equal(share.recall, 1, where);
            assert.ok(Math.abs(share.mass - truth.bestMass) < 1e-6, where);
          }
        }
      }
      step++;
    });
  }
});

Deno.test("what is selected beside dense attention is what a step selects after dense layers", async () => {
  const path = await offloadedModel();
  const source = await openModel(path);
  source.close();
  const { config } = source;
  const last = config.numLayers - 1;
  await using many = await openEngine(path, {
    calibration: await makeCalibration(),
    predictor: await makePredictor(),
    maxSequences: 4,
  });
  const { parts } = many;
  using reader = new SelectionReader(parts, config);
  const scorer = new RowScorer(parts, TOKENS);
  const ids = textIds(TOKENS, config.vocabSize, 3);
  const positions = [97, 130, 155, 164, 180];
  for (const policy of ["oracle", "loki", "tokenbutler", "quest"] as const) {
    const kv: KvRequest = {
      policy,
      sinks: 4,
      window: 9,
      budget: { rows: policy === "quest" ? 51 : 13 },
      denseLayers: last,
    };
    const { settings } = resolveKv(kv, { numLayers: config.numLayers, numKvHeads: HEADS }, {
      fits: true,
      canProject: true,
      canPredict: true,
    });
    const beside: unknown[] = [];
    parts.runner.steps.selectionObserver = reader;
    await scorer.visit(ids, positions, settings, async (rows) => {
      beside.push(...await reader.attended(last, rows));
    });
    parts.runner.steps.selectionObserver = null;
    for (const [index, position] of positions.entries()) {
      // One row is decoded: the last but one.
      await scorer.follow([{ ids: ids.slice(0, position + 2), prefilled: position, settings }]);
      const row = { position };
      const [alone] = await reader.attended(last, [row]);
      assert.deepEqual(beside[index], alone, `${policy}, row ${position}`);
    }
  }
});
