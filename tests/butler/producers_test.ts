/** Producers on the device give the queries of the plain ones, whatever their sizes. */
import { importanceQueries } from "../../src/butler/predictor/predictor.ts";
import { producersOf } from "../../src/butler/predictor/shape.ts";
import { turnQueries } from "../../src/butler/predictor/turns.ts";
import { Producers } from "../../src/butler/producers.ts";
import { ropeAngles } from "../../src/gpu/ops/rope.ts";
import { selectPlan } from "../../src/gpu/plan.ts";
import { STEP_PARAMS } from "../../src/gpu/step_params.ts";
import { paddedCols } from "../../src/gpu/weight_layout.ts";
import { Random, Rig } from "../gpu/_rig.ts";
import { randomPredictor } from "./_predictor.ts";
import { assert } from "std-testing";

const MODEL = { fingerprint: "", numKvHeads: 1, headDim: 8 };
const MOST_ROWS = 5;
/** Of cosines and sines, as some ways to stretch RoPE have it; importance queries do without. */
const FACTOR = 1.25;
const FREQUENCIES = [1, 0.03];

for (
  const [hiddenSize, inner, numHeads, numLayers, stride] of [
    [30, 10, 1, 2, 4],
    [33, 7, 3, 6, 4],
    [64, 129, 2, 5, 1],
    [576, 128, 9, 30, 4],
  ] as const
) {
  for (const lanes of ["adapter's", "32"] as const) {
    const name = `${hiddenSize} x ${inner}, ${numHeads} heads, ${numLayers} layers, ${lanes} lanes`;
    Deno.test(`importance queries of every layer: ${name}`, async () => {
      using rig = await Rig.create();
      const { kernels, caps } = rig;
      const more = lanes === "32" ? { subgroups: "false", rowLanes: "32" } : {};
      const plan = selectPlan(caps, more);
      const random = new Random(hiddenSize + inner);
      const model = { ...MODEL, hiddenSize, numHeads, numLayers };
      const predictor = randomPredictor({ model, stride, inner }, random);
      const cols = paddedCols(hiddenSize);
      const x = new Float32Array(MOST_ROWS * cols);
      const rows = Array.from({ length: MOST_ROWS }, (_, row) => {
        const values = random.floats(hiddenSize, 3).map((value) => value + 0.5);
        x.set(values, row * cols);
        return values;
      });
      const numRows = 3;
      const angles = new Float32Array(MOST_ROWS * 4);
      for (let row = 0; row < MOST_ROWS; row++) {
        const rope = { inverseFrequencies: FREQUENCIES, attentionFactor: FACTOR };
        ropeAngles({ ...rope, dimensions: 4, pairing: "half" }, 100 * row + 7, angles, row * 4);
      }
      const step = rig.uniform(
        STEP_PARAMS.pack({ num_rows: numRows, first_row: 0, num_splits: 1, logits_row: 0 }),
      );
      using producers = await Producers.create({
        kernels,
        plan,
        predictor,
        x: rig.storage(x),
        angles: rig.storage(angles),
        rope: { dimensions: 4, attentionFactor: FACTOR },
        maxRows: MOST_ROWS,
        step: { buffer: step, offset: 0, size: STEP_PARAMS.size },
      });
      const encoder = kernels.device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (let layer = 0; layer < numLayers; layer++) producers.encode(pass, layer, numRows, 0);
      pass.end();
      kernels.device.queue.submit([encoder.finish()]);
      const width = numHeads * 16;
      for (const { index, first, count } of producersOf(predictor.shape)) {
        for (let row = 0; row < numRows; row++) {
          const wanted = importanceQueries(predictor.producers[index]!, rows[row]!);
          assert.equal(wanted.length, count * width);
          const turns = predictor.turns.slice(first * 8, (first + count) * 8);
          const turning = { turns, frequencies: FREQUENCIES };
          turnQueries(wanted, 0, turning, numHeads, 100 * row + 7);
          for (let layer = 0; layer < count; layer++) {
            const { buffer, offset } = producers.queriesOf(first + layer);
            const at = offset + row * width * 4;
            const bytes = await rig.readback.copyAndRead(buffer, at, width * 4);
            const got = new Float32Array(bytes.slice().buffer);
            got.forEach((value, i) => {
              const plain = wanted[layer * width + i]!;
              const off = Math.abs(value - plain);
              const where = `layer ${first + layer}, row ${row}, ${i}`;
              assert.ok(off < 1e-3 + 1e-4 * Math.abs(plain), `${where}: ${value}, not ${plain}`);
            });
          }
        }
      }
    });
  }
}
