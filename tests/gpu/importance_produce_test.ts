import { importanceQueries, PRODUCER_NORM_EPS } from "../../src/butler/predictor/predictor.ts";
import { turnQueries } from "../../src/butler/predictor/turns.ts";
import {
  importanceProduceSpec,
  importanceProduceWorkgroups,
  PRODUCE_PARAMS,
} from "../../src/gpu/ops/importance_produce.ts";
import { ropeAngles } from "../../src/gpu/ops/rope.ts";
import { Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

const POSITIONS = [3, 70, 1000];
const FREQUENCIES = [1, 0.03];
/** Of cosines and sines, as some ways to stretch RoPE have it; importance queries do without. */
const FACTOR = 1.25;

const SHAPES = [
  { hidden: 24, stride: 32, inner: 8, layers: 1, heads: 1 },
  { hidden: 40, stride: 40, inner: 12, layers: 3, heads: 3 },
  { hidden: 576, stride: 576, inner: 128, layers: 4, heads: 9 },
];

for (const { hidden, stride, inner, layers, heads } of SHAPES) {
  for (const rows of [2, 4, 16]) {
    for (const wide of [false, true]) {
      const name = `${hidden} wide, ${layers} layers, ${rows} rows, ` +
        (wide ? "32 lanes without subgroups" : "a subgroup");
      Deno.test(`importance queries agree with the plain ones: ${name}`, async () => {
        const rig = await Rig.create();
        const subgroups = !wide && rig.subgroup > 0;
        const lanes = subgroups ? rig.subgroup : 32;
        const random = new Random(hidden + rows);
        const numRows = 3;
        const width = heads * 16;
        const producer = {
          normWeight: random.floats(hidden, 1),
          normBias: random.floats(hidden, 1),
          up: random.floats(inner * hidden, 1 / Math.sqrt(hidden)),
          down: random.floats(layers * width * inner, 1),
        };
        const x = random.floats(numRows * stride, 2).map((value) => value + 0.5);
        // A KV head for each query head; of three pairs one stands still.
        const turns = Int32Array.from({ length: layers * heads * 8 }, (_, i) => i % 3 - 1);
        const angles = new Float32Array(numRows * FREQUENCIES.length * 2);
        POSITIONS.forEach((position, row) => {
          const rope = { inverseFrequencies: FREQUENCIES, attentionFactor: FACTOR };
          ropeAngles({ ...rope, dimensions: 4, pairing: "half" }, position, angles, row * 4);
        });
        const layerStride = 4 * width + 64;
        const features = rig.storage(new Float32Array(numRows * inner));
        const queries = rig.storage(new Float32Array(layers * layerStride));
        const words = (matrixRows: number, of: Partial<Record<string, number>>) =>
          new Uint32Array(PRODUCE_PARAMS.pack({
            matrix_rows: matrixRows,
            width: of["width"]!,
            quads: of["width"]! / 4,
            input_stride: of["stride"]! / 4,
            layer_rows: of["layerRows"]!,
            layer_stride: of["layerStride"]!,
            eps: PRODUCER_NORM_EPS,
            pairs: FREQUENCIES.length,
            turn_scale: 1 / FACTOR,
          }));
        const first = { stage: "features" as const, rows, lanes, subgroups };
        const second = { stage: "queries" as const, rows, lanes, subgroups };
        await rig.run([
          {
            spec: importanceProduceSpec(first),
            parts: [
              rig.storage(producer.up),
              rig.storage(x),
              features,
              rig.storage(producer.normWeight),
              rig.storage(producer.normBias),
              rig.uniform(
                words(inner, { width: hidden, stride, layerRows: inner, layerStride: 0 }),
              ),
            ],
            step: { num_rows: numRows },
            workgroups: importanceProduceWorkgroups(first, inner, numRows),
          },
          {
            spec: importanceProduceSpec(second),
            parts: [
              rig.storage(producer.down),
              features,
              queries,
              rig.storage(Uint32Array.from(turns)),
              rig.storage(angles),
              rig.uniform(
                words(layers * width, {
                  width: inner,
                  stride: inner,
                  layerRows: width,
                  layerStride,
                }),
              ),
            ],
            step: { num_rows: numRows },
            workgroups: importanceProduceWorkgroups(second, layers * width, numRows),
          },
        ]);
        const got = await rig.floats(queries, layers * layerStride);
        for (let row = 0; row < numRows; row++) {
          const wanted = importanceQueries(
            producer,
            x.subarray(row * stride, row * stride + hidden),
          );
          const turning = { turns, frequencies: FREQUENCIES };
          turnQueries(wanted, 0, turning, 1, POSITIONS[row]!);
          wanted.forEach((value, i) => {
            const at = Math.floor(i / width) * layerStride + row * width + i % width;
            const off = Math.abs(got[at]! - value);
            assert.ok(
              off < 1e-3 + 1e-4 * Math.abs(value),
              `row ${row}, ${i}: ${got[at]}, not ${value}`,
            );
          });
        }
      });
    }
  }
}
