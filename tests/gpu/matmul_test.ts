import {
  canUseLanes,
  MATMUL_PARAMS,
  type MatmulEpilogue,
  matmulSpec,
  type MatmulVariant,
  matmulWorkgroups,
} from "../../src/gpu/ops/matmul.ts";
import { paddedCols, rowVecs } from "../../src/gpu/weight_layout.ts";
import { matmulReference } from "../reference/matmul.ts";
import { assertClose, F32_BOUNDS, Random, Rig, untouched } from "./_rig.ts";
import { deviceBytes, randomStored, unpacked } from "./_weights.ts";
import { assert } from "std-testing";

interface Shape {
  readonly rows: number;
  readonly cols: number;
  readonly tokens: number;
  readonly rowOffset?: number;
}

/** Runs a variant on random numbers and compares. */
async function check(rig: Rig, v: MatmulVariant, shape: Shape, seed: number): Promise<void> {
  const { rows, cols, tokens, rowOffset = 0 } = shape;
  const random = new Random(seed);
  const stored = randomStored(v.type, v.epilogue === "swiglu" ? rows * 2 : rows, cols, random);
  const xStride = paddedCols(cols);
  const yStride = rowOffset + rows + (v.form === "lanes" ? 4 : 3);
  const reads = v.epilogue === "add" || v.epilogue === "gated";
  // A row of x and of y more than there are tokens: it must neither be read nor written.
  const x = new Float32Array((tokens + 1) * xStride).fill(NaN);
  x.set(random.floats(tokens * xStride));
  const y = untouched((tokens + 1) * yStride);
  if (reads) y.set(random.floats(tokens * yStride));
  const bias = random.floats(yStride);
  const out = rig.storage(y);
  const params = rig.uniform(MATMUL_PARAMS.pack({
    rows,
    units: xStride / 8,
    row_vecs: rowVecs(v.type, cols),
    row_offset: rowOffset,
    y_stride: yStride,
    x_stride: xStride / 4,
    square_vecs: 0,
    norm_width: 0,
    norm_eps: 0,
  }));
  await rig.run([{
    spec: matmulSpec(v),
    parts: [
      rig.storage(deviceBytes(stored)),
      rig.storage(x),
      out,
      ...(v.bias ? [rig.storage(bias)] : []),
      params,
    ],
    step: { num_rows: tokens },
    workgroups: matmulWorkgroups(v, rows, tokens),
  }]);
  const want = matmulReference({
    weights: unpacked(stored),
    x,
    y,
    ...(v.bias ? { bias } : {}),
    rows,
    cols,
    tokens,
    xStride,
    yStride,
    rowOffset,
    epilogue: v.epilogue,
  });
  const got = await rig.floats(out, y.length);
  const where = `${matmulSpec(v).variant} ${JSON.stringify(shape)} seed ${seed}`;
  // Where nothing is written, `add` and `gated` have left what was there: compare those apart.
  got.forEach((value, i) => {
    if (want[i] === null && Object.is(value, y[i])) got[i] = y[y.length - 1]!;
  });
  assertClose(got, want, F32_BOUNDS, where);
}

/** Lanes with and without sums by subgroup, as far as the adapter has them. */
function laneChoices(rig: Rig): { lanes: number; subgroups: boolean; rows: number }[] {
  return [
    ...(rig.subgroup === 0 ? [] : [{ lanes: rig.subgroup, subgroups: true, rows: 8 }]),
    { lanes: 8, subgroups: false, rows: 8 },
    { lanes: 32, subgroups: false, rows: 4 },
    { lanes: 64, subgroups: false, rows: 4 },
  ];
}

const ROWS = [1, 7, 8, 9, 63, 129];
const TOKENS = Array.from({ length: 17 }, (_, i) => i + 1);

for (const tokens of [1, 2, 4, 8]) {
  Deno.test(`matmul with tiles of ${tokens} tokens agrees over odd sizes, every lane count`, async () => {
    using rig = await Rig.create();
    for (const [index, choice] of laneChoices(rig).entries()) {
      const type = (["Q4_1", "Q8_0", "F32", "F16"] as const)[index]!;
      const v: MatmulVariant = {
        form: "rows",
        type,
        epilogue: "store",
        bias: false,
        tokens,
        ...choice,
      };
      for (const rows of ROWS) {
        await check(rig, v, { rows, cols: 96, tokens: 3, rowOffset: rows % 5 }, rows);
      }
      for (const count of TOKENS) await check(rig, v, { rows: 11, cols: 64, tokens: count }, count);
      // More units than lanes, a rest, and for plain floats columns that do not fill a unit.
      await check(rig, v, { rows: 6, cols: 1056, tokens: 2 }, 5);
      if (type === "F32") await check(rig, v, { rows: 5, cols: 36, tokens: 5 }, 6);
      if (type === "F16") await check(rig, v, { rows: 5, cols: 540, tokens: 5 }, 7);
    }
  });
}

for (const epilogue of ["store", "add", "swiglu", "gated"] as const satisfies MatmulEpilogue[]) {
  Deno.test(`matmul agrees with epilogue ${epilogue}, with and without bias`, async () => {
    using rig = await Rig.create();
    const [first, second] = laneChoices(rig);
    for (const bias of [false, true]) {
      const common = { form: "rows", epilogue, bias } as const;
      const one = { ...common, type: "Q4_0", tokens: 1, ...first!, rows: 4 } as const;
      const many = { ...common, type: "F16", tokens: 4, ...second!, rows: 4 } as const;
      for (const rows of ROWS) {
        await check(rig, one, { rows, cols: 64, tokens: 3, rowOffset: 7 }, rows);
        await check(rig, many, { rows, cols: 64, tokens: 6, rowOffset: 2 }, rows + 1);
      }
    }
  });
}

/** Rows of y and offsets by fours, as the form with a lane for a token needs them. */
const QUAD_ROWS = [4, 8, 12, 60, 132];

for (const epilogue of ["store", "add", "swiglu", "gated"] as const satisfies MatmulEpilogue[]) {
  Deno.test(`matmul_lanes agrees over odd sizes with epilogue ${epilogue}`, async () => {
    using rig = await Rig.create();
    const lanes = rig.subgroup;
    // Weights pass from lane to lane only where the size of a subgroup is known.
    if (lanes === 0) return;
    for (const [type, bias, turns] of [["Q4_1", false, 1], ["F32", true, 2]] as const) {
      const v: MatmulVariant = {
        form: "lanes",
        type,
        epilogue,
        bias,
        lanes,
        rows: 2 * lanes,
        tokens: turns * lanes,
        subgroups: true,
      };
      for (const rows of QUAD_ROWS) {
        await check(rig, v, { rows, cols: 96, tokens: 3, rowOffset: rows % 8 }, rows);
      }
      for (const count of [...TOKENS, 31, 32, 33]) {
        await check(rig, v, { rows: 12, cols: 64, tokens: count }, count);
      }
      await check(rig, v, { rows: 8, cols: 1056, tokens: 2 }, 5);
      if (type === "F32") await check(rig, v, { rows: 4, cols: 36, tokens: 5 }, 6);
    }
  });
}

Deno.test("matmul_lanes has no tile that lanes cannot share", () => {
  const v: MatmulVariant = {
    form: "lanes",
    type: "F32",
    epilogue: "swiglu",
    bias: false,
    lanes: 8,
    rows: 32,
    tokens: 8,
    subgroups: true,
  };
  matmulSpec(v);
  for (const bad of [{ rows: 8 }, { tokens: 12 }, { subgroups: false }]) {
    assert.throws(() => matmulSpec({ ...v, ...bad }), RangeError);
  }
  assert.equal(canUseLanes(12, 4, 20), true);
  assert.equal(canUseLanes(11, 4, 20), false);
  assert.equal(canUseLanes(12, 2, 20), false);
  assert.equal(canUseLanes(12, 4, 21), false);
});

Deno.test("matmul finds its tile when the dispatch is folded into two dimensions", async () => {
  using rig = await Rig.create();
  const v: MatmulVariant = {
    form: "rows",
    type: "F32",
    epilogue: "store",
    bias: false,
    lanes: 8,
    rows: 4,
    tokens: 1,
    subgroups: false,
  };
  await check(rig, v, { rows: 13107, cols: 8, tokens: 21 }, 9);
});
