import {
  MATMUL_PARAMS,
  matmulSpec,
  type MatmulVariant,
  matmulWorkgroups,
} from "../../src/gpu/ops/matmul.ts";
import { paddedCols, rowBytes, rowVecs } from "../../src/gpu/weight_layout.ts";
import { BLOCK_GEOMETRY } from "../../src/model/quants.ts";
import { WEIGHT_TYPES, type WeightType } from "../../src/model/types.ts";
import { Random, Rig } from "./_rig.ts";
import {
  assertUnpacked,
  deviceBytes,
  goldenStored,
  randomStored,
  type Stored,
  unpacked,
} from "./_weights.ts";

/** y[t, r] of the product with the unit vectors, which is w[r, t]: each weight comes out alone. */
async function unitProducts(rig: Rig, stored: Stored, v: MatmulVariant): Promise<Float32Array> {
  const { type, cols } = stored;
  // With a lane for each token rows come by fours; the last of them lie past those of the matrix.
  const rows = Math.ceil(stored.rows / 4) * 4;
  const weights = new Uint8Array(rows * rowBytes(type, cols));
  weights.set(deviceBytes(stored));
  const stride = paddedCols(cols);
  const units = new Float32Array(cols * stride);
  for (let t = 0; t < cols; t++) units[t * stride + t] = 1;
  const y = rig.storage(new Float32Array(cols * rows));
  const params = rig.uniform(MATMUL_PARAMS.pack({
    rows,
    units: stride / 8,
    row_vecs: rowVecs(type, cols),
    row_offset: 0,
    y_stride: rows,
    x_stride: stride / 4,
    square_vecs: 0,
    norm_width: 0,
    norm_eps: 0,
  }));
  await rig.run([{
    spec: matmulSpec(v),
    parts: [rig.storage(weights), rig.storage(units), y, params],
    step: { num_rows: cols },
    workgroups: matmulWorkgroups(v, rows, cols),
  }]);
  const out = await rig.floats(y, cols * rows);
  return out.filter((_, index) => index % rows < stored.rows);
}

function variants(rig: Rig, type: WeightType): MatmulVariant[] {
  const common = { form: "rows", type, epilogue: "store", bias: false, rows: 4 } as const;
  const plain = [1, 8].map((tokens) => ({ ...common, tokens, lanes: 8, subgroups: false }));
  if (rig.subgroup === 0) return plain;
  const lanes = rig.subgroup;
  return [
    ...plain,
    ...plain.map((v) => ({ ...v, lanes, subgroups: true })),
    { ...common, form: "lanes", rows: lanes, tokens: lanes, lanes, subgroups: true },
  ];
}

for (const type of WEIGHT_TYPES) {
  Deno.test(`matmul unpacks ${type} as the reference does`, async () => {
    using rig = await Rig.create();
    const { weights } = BLOCK_GEOMETRY[type];
    const cols = weights === 1 ? 36 : weights * 2;
    const samples: Stored[] = [1, 2].map((seed) => randomStored(type, 9, cols, new Random(seed)));
    if (type !== "F32") samples.push(goldenStored(type));
    for (const stored of samples) {
      const want = unpacked(stored);
      for (const v of variants(rig, type)) {
        const got = await unitProducts(rig, stored, v);
        const turned = want.map((_, i) =>
          got[(i % stored.cols) * stored.rows + Math.floor(i / stored.cols)]!
        );
        assertUnpacked(type, turned, want, matmulSpec(v).variant);
      }
    }
  });
}
