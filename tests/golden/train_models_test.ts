/**
 * A predictor of every kind of model that runs: what training says of it is what the engine does with
 * it. So the states, queries and keys that training sees are those that a decode step has.
 */
import { openKeys, readKeys } from "../../src/butler/calibration/read_keys.ts";
import { encodePredictor } from "../../src/butler/predictor/file.ts";
import { resolveKv } from "../../src/butler/settings.ts";
import { openKernels } from "../../src/engine/create.ts";
import { headShare, headTruth } from "../../src/eval/recall.ts";
import { RowScorer } from "../../src/eval/rows.ts";
import { SelectionReader } from "../../src/eval/selections.ts";
import { selectPlan } from "../../src/gpu/plan.ts";
import { openModel } from "../../src/model/open.ts";
import { ropeForContext } from "../../src/model/rope.ts";
import type { ModelConfig } from "../../src/model/types.ts";
import { capture, type CaptureWindow } from "../../src/train/capture.ts";
import { CaptureFile } from "../../src/train/capture_file.ts";
import { Draws } from "../../src/train/draws.ts";
import { MEASURED_BUDGET, TRAIN_DEFAULTS } from "../../src/train/settings.ts";
import { train, type TrainResult } from "../../src/train/train.ts";
import { openEngine } from "./_engine.ts";
import { tinyModels } from "./_golden.ts";
import { textIds } from "./_offload.ts";
import { assert } from "std-testing";

const TOKENS = 192;
const CONTEXT = TOKENS + 1;
const SETTINGS = {
  ...TRAIN_DEFAULTS,
  stride: 2,
  inner: 16,
  tokens: TOKENS,
  rows: 24,
  windows: 2,
  heldOut: 1,
  heldOutTokens: TOKENS,
  tableTokens: TOKENS,
  epochs: 1,
  rate: 1e-3,
};
const ENGINE = { kvType: "f32", contextLength: CONTEXT } as const;

/** A window of made-up text. */
function windowOf(vocabSize: number, seed: number): CaptureWindow {
  const positions = new Draws(seed, 0).spread(TOKENS / 2 + 8, TOKENS, SETTINGS.rows);
  return { ids: textIds(TOKENS, vocabSize, seed), positions };
}

async function trainOn(path: string, config: ModelConfig, folder: string, heldOut: CaptureWindow) {
  await using opened = await openEngine(path, { ...ENGINE, maxSequences: 1, prefillChunk: 80 });
  const { parts } = opened;
  const { numLayers, hiddenSize, numHeads, numKvHeads, headDim } = config;
  const { fingerprint } = parts.info.model;
  const shape = {
    model: { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim },
    stride: SETTINGS.stride,
    inner: SETTINGS.inner,
  };
  const captured = async (name: string, windows: readonly CaptureWindow[]) => {
    const sizes = { model: shape.model, stride: shape.stride, tokens: TOKENS, rows: SETTINGS.rows };
    const file = CaptureFile.open(`${folder}/${name}`, { shape: sizes, content: name });
    await capture({ parts, file, windows, chunk: 80 });
    return file;
  };
  const windows = [11, 12].map((seed) => windowOf(config.vocabSize, seed));
  using first = await captured("train", windows);
  using second = await captured("held_out", [heldOut]);
  const kernels = await openKernels({});
  try {
    const result = await train({
      kernels,
      plan: selectPlan(kernels.caps, {}),
      shape,
      rope: ropeForContext(config.rope, CONTEXT),
      settings: SETTINGS,
      train: first,
      heldOut: second,
      table: second,
      from: null,
      checkpoint: `${folder}/checkpoint`,
      memory: 2 ** 28,
    });
    return result!;
  } finally {
    kernels.device.destroy();
  }
}

/** (layers after the first, KV heads): recall and mass of what the engine selects. */
async function selected(
  path: string,
  config: ModelConfig,
  predictor: string,
  { ids, positions }: CaptureWindow,
): Promise<{ readonly recall: number; readonly mass: number }[]> {
  const { numLayers, numHeads, numKvHeads, headDim } = config;
  await using opened = await openEngine(path, {
    ...ENGINE,
    maxSequences: 4,
    predictor,
    maxParameters: 9,
  });
  const { parts } = opened;
  using reader = new SelectionReader(parts, config);
  using source = await openKeys(parts, config);
  const rows = { sinks: SETTINGS.sinks, window: SETTINGS.window };
  const { settings } = resolveKv(
    { policy: "tokenbutler", ...rows, budget: { rows: MEASURED_BUDGET } },
    config,
    { fits: true, canProject: false, canPredict: true },
  );
  const sums = Array.from({ length: (numLayers - 1) * numKvHeads }, () => ({ recall: 0, mass: 0 }));
  await new RowScorer(parts, TOKENS).visit(ids, positions, settings, async (step) => {
    for (let layer = 1; layer < numLayers; layer++) {
      const keys: Float32Array = await readKeys(source, 0, layer, 0, TOKENS);
      const queries = await reader.queries(layer, step.length);
      const attended = await reader.attended(layer, step);
      for (const [row, { position }] of step.entries()) {
        for (let head = 0; head < numKvHeads; head++) {
          const group = numHeads / numKvHeads;
          const at = (row * numHeads + head * group) * headDim;
          const own = queries.subarray(at, at + group * headDim);
          const mine = keys.subarray(head * TOKENS * headDim, (head + 1) * TOKENS * headDim);
          const truth = headTruth(own, mine, headDim, position + 1, {
            ...rows,
            budget: MEASURED_BUDGET,
          })!;
          const share = headShare(truth, attended[row]!, head);
          const sum = sums[(layer - 1) * numKvHeads + head]!;
          sum.recall += share.recall / positions.length;
          sum.mass += share.mass / positions.length;
        }
      }
    }
  });
  return sums;
}

/** Formats of weights change nothing here: one of those files, with its own pairs of RoPE, will do. */
const KINDS = (await tinyModels()).filter(({ name }) => !/kquants|floats|low/.test(name));

for (const { name, path } of KINDS) {
  Deno.test(`what training says of a predictor is what the engine does with it: ${name}`, async () => {
    const source = await openModel(path);
    source.close();
    const { config } = source;
    const folder = await Deno.makeTempDir({ prefix: "tokenbutler_train_" });
    try {
      const window = windowOf(config.vocabSize, 13);
      const { predictor, heads }: TrainResult = await trainOn(path, config, folder, window);
      const notes = { training: null, results: null, budgets: null, program: "" };
      const file = `${folder}/butler.safetensors`;
      await Deno.writeFile(file, encodePredictor({ predictor, notes }));
      const found = await selected(path, config, file, window);
      found.forEach(({ recall, mass }, index) => {
        const { recall: wanted, mass: wantedMass, rows } = heads[index]!;
        assert.equal(rows, SETTINGS.rows);
        // Training has keys and queries in half precision: a few ranks change.
        assert.ok(Math.abs(recall - wanted) < 0.01, `${index}: recall ${recall}, not ${wanted}`);
        assert.ok(Math.abs(mass - wantedMass) < 0.002, `${index}: mass ${mass}, not ${wantedMass}`);
      });
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
