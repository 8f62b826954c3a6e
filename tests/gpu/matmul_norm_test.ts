/** The norm between two products with one token, which has no kernel of its own. */
import {
  MATMUL_PARAMS,
  matmulSpec,
  type MatmulVariant,
  matmulWorkgroups,
} from "../../src/gpu/ops/matmul.ts";
import { paddedCols, rowVecs } from "../../src/gpu/weight_layout.ts";
import { matmulReference } from "../reference/matmul.ts";
import { rmsNormReference } from "../reference/rms_norm.ts";
import { assertClose, F32_BOUNDS, Random, Rig, untouched } from "./_rig.ts";
import { deviceBytes, randomStored, unpacked } from "./_weights.ts";
import { assert } from "std-testing";

const EPS = 1e-3;

type Common = Pick<MatmulVariant, "lanes" | "subgroups" | "rows">;

/** y += A x, then z = B norm(y), both with one token. */
async function check(
  rig: Rig,
  common: Common,
  hidden: number,
  epilogue: "store" | "swiglu",
  scale: number,
): Promise<void> {
  const random = new Random(hidden);
  const inner = 64;
  const outer = 13;
  const a = randomStored("Q4_1", hidden, inner, random);
  const b = randomStored("F32", epilogue === "swiglu" ? 2 * outer : outer, hidden, random);
  const stride = paddedCols(hidden);
  const x = random.floats(inner, scale);
  const y = new Float32Array(stride);
  y.set(random.floats(hidden, scale));
  const gain = new Float32Array(stride);
  gain.set(random.floats(hidden));
  const out: MatmulVariant = {
    form: "rows",
    type: "Q4_1",
    epilogue: "add",
    bias: false,
    tokens: 1,
    norm: "out",
    ...common,
  };
  const into: MatmulVariant = { ...out, type: "F32", epilogue, bias: true, norm: "in" };
  const tiles = matmulWorkgroups(out, hidden, 1);
  const [summed, squares, normed, z] = [
    rig.storage(y),
    rig.storage(new Float32Array(Math.ceil(tiles / 4) * 4)),
    rig.storage(new Float32Array(stride)),
    rig.storage(untouched(outer + 1)),
  ];
  const bias = random.floats(outer);
  const params = (
    values: Record<"rows" | "units" | "row_vecs" | "y_stride" | "x_stride", number>,
  ) =>
    rig.uniform(MATMUL_PARAMS.pack({
      ...values,
      row_offset: 0,
      square_vecs: Math.ceil(tiles / 4),
      norm_width: hidden,
      norm_eps: EPS,
    }));
  await rig.run([{
    spec: matmulSpec(out),
    parts: [
      rig.storage(deviceBytes(a)),
      rig.storage(x),
      summed,
      squares,
      rig.storage(gain),
      normed,
      params({
        rows: hidden,
        units: inner / 8,
        row_vecs: rowVecs("Q4_1", inner),
        y_stride: stride,
        x_stride: inner / 4,
      }),
    ],
    step: { num_rows: 1 },
    workgroups: tiles,
  }, {
    spec: matmulSpec(into),
    parts: [
      rig.storage(deviceBytes(b)),
      normed,
      z,
      rig.storage(bias),
      squares,
      params({
        rows: outer,
        units: stride / 8,
        row_vecs: rowVecs("F32", hidden),
        y_stride: outer,
        x_stride: stride / 4,
      }),
    ],
    step: { num_rows: 1 },
    workgroups: matmulWorkgroups(into, outer, 1),
  }]);
  const shape = { tokens: 1, rowOffset: 0 };
  const wantY = matmulReference({
    ...shape,
    weights: unpacked(a),
    x,
    y,
    rows: hidden,
    cols: inner,
    xStride: inner,
    yStride: stride,
    epilogue: "add",
  });
  const where = `${matmulSpec(out).variant}, ${hidden} columns`;
  const got = await rig.floats(summed, hidden);
  assertClose(got, wantY.slice(0, hidden), F32_BOUNDS, where);
  const wantZ = matmulReference({
    ...shape,
    weights: unpacked(b),
    x: rmsNormReference(wantY.slice(0, hidden).map(Number), gain.subarray(0, hidden), EPS),
    y: untouched(outer + 1),
    bias,
    rows: outer,
    cols: hidden,
    xStride: hidden,
    yStride: outer,
    epilogue,
  });
  assertClose(await rig.floats(z, outer + 1), wantZ, F32_BOUNDS, `${where}, ${epilogue}`);
}

for (const choice of ["subgroup", 8, 32] as const) {
  Deno.test(`products with a norm between them agree over odd sizes, lanes: ${choice}`, async () => {
    using rig = await Rig.create();
    const subgroups = choice === "subgroup";
    const lanes = subgroups ? rig.subgroup : choice;
    if (lanes === 0) return;
    for (const rows of subgroups ? [4, 16] : [4]) {
      const common = { lanes, subgroups, rows };
      for (const hidden of [4, 36, 60, 576, 1028]) await check(rig, common, hidden, "store", 1);
      await check(rig, common, 96, "swiglu", 1);
      // Values so small that eps decides.
      await check(rig, common, 96, "store", 1e-3);
    }
  });
}

Deno.test("only products with one token take part in a norm", () => {
  const v: MatmulVariant = {
    form: "rows",
    type: "F32",
    epilogue: "store",
    bias: false,
    lanes: 8,
    rows: 16,
    tokens: 4,
    subgroups: true,
    norm: "in",
  };
  assert.throws(() => matmulSpec(v), RangeError);
  assert.throws(() => matmulSpec({ ...v, form: "lanes", tokens: 8 }), RangeError);
});
