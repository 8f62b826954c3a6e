import { NORM_PARAMS, type NormVariant, rmsNormSpec } from "../../src/gpu/ops/rms_norm.ts";
import { paddedCols } from "../../src/gpu/weight_layout.ts";
import { rmsNormReference } from "../reference/rms_norm.ts";
import { assertClose, F32_BOUNDS, Random, Rig, untouched } from "./_rig.ts";

async function check(
  rig: Rig,
  variant: NormVariant,
  rows: number,
  width: number,
  options: { firstLogit?: number; scale?: number; eps?: number } = {},
): Promise<void> {
  const { firstLogit = 0, scale = 1, eps = 1e-5 } = options;
  const seed = rows * 1000 + width;
  const random = new Random(seed);
  const stride = paddedCols(width);
  // Rows around those that are asked for hold no numbers; the columns after `width` hold zeros.
  const x = new Float32Array((firstLogit + rows + 1) * stride).fill(NaN);
  for (let row = 0; row < rows; row++) {
    x.fill(0, (firstLogit + row) * stride, (firstLogit + row + 1) * stride);
    x.set(random.floats(width, scale), (firstLogit + row) * stride);
  }
  const gain = new Float32Array(stride);
  gain.set(random.floats(width));
  const y = rig.storage(untouched((rows + 1) * stride));
  await rig.run([{
    spec: rmsNormSpec(variant),
    parts: [
      rig.storage(x),
      rig.storage(gain),
      y,
      rig.uniform(NORM_PARAMS.pack({ stride: stride / 4, width, eps })),
    ],
    step: { num_rows: rows, logits_row: firstLogit },
    workgroups: rows,
  }]);
  const want: (number | null)[] = [];
  for (let row = 0; row < rows; row++) {
    const start = (firstLogit + row) * stride;
    want.push(...rmsNormReference(x.subarray(start, start + width), gain.subarray(0, width), eps));
    for (let i = width; i < stride; i++) want.push(0);
  }
  for (let i = 0; i < stride; i++) want.push(null);
  const got = await rig.floats(y, want.length);
  const where = `${rmsNormSpec(variant).variant}, ${rows} rows of ${width}, seed ${seed}`;
  assertClose(got, want, F32_BOUNDS, where);
}

for (const choice of [8, 32, 64, "subgroup"] as const) {
  Deno.test(`rms_norm agrees over odd sizes, lanes: ${choice}`, async () => {
    using rig = await Rig.create();
    const subgroups = choice === "subgroup";
    const lanes = subgroups ? rig.subgroup : choice;
    // Sums of a subgroup are whole only where its size is known.
    if (lanes === 0) return;
    const variant = { lanes, subgroups };
    for (const rows of [1, 7, 8, 9, 63, 129]) await check(rig, variant, rows, 64);
    for (const width of [1, 8, 36, 576, 1001, 4096]) await check(rig, variant, 3, width);
    await check(rig, variant, 5, 96, { firstLogit: 11 });
    // Values so small that eps decides, and large ones.
    await check(rig, variant, 4, 96, { scale: 1e-4, eps: 1e-3 });
    await check(rig, variant, 4, 96, { scale: 1e6 });
  });
}
