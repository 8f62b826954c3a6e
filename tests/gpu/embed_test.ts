import { EMBED_PARAMS, embedSpec, TOKEN_FROM_DEVICE } from "../../src/gpu/ops/embed.ts";
import { paddedCols, rowBytes, rowVecs } from "../../src/gpu/weight_layout.ts";
import { BLOCK_GEOMETRY } from "../../src/model/quants.ts";
import { WEIGHT_TYPES } from "../../src/model/types.ts";
import { embedReference } from "../reference/embed.ts";
import { Random, Rig, UNTOUCHED, untouched } from "./_rig.ts";
import {
  assertUnpacked,
  deviceBytes,
  goldenStored,
  randomStored,
  type Stored,
  unpacked,
} from "./_weights.ts";
import { assert } from "std-testing";

interface StepRow {
  readonly token: number;
  readonly slot: number;
}

/**
 * Looks rows up, in parts of at most `partRows` rows of the matrix.
 *
 * @returns (rows, padded columns) and one row that no token belongs to
 */
async function lookUp(
  rig: Rig,
  stored: Stored,
  lanes: number,
  rows: readonly StepRow[],
  lastTokens: readonly number[],
  options: { firstRow?: number; partRows?: number } = {},
): Promise<Float32Array> {
  const { type, cols } = stored;
  const { firstRow = 0, partRows = stored.rows } = options;
  const stride = paddedCols(cols);
  const table = new Uint32Array((firstRow + rows.length) * 4).fill(0xfffffff0);
  rows.forEach(({ token, slot }, i) => table.set([token, slot, 0, 0], (firstRow + i) * 4));
  const out = rig.storage(untouched((rows.length + 1) * stride));
  const bytes = deviceBytes(stored);
  const bytesOfRow = rowBytes(type, cols);
  const tableBuffer = rig.storage(table);
  const last = rig.storage(Uint32Array.from(lastTokens));
  const calls = [];
  for (let first = 0; first < stored.rows; first += partRows) {
    const count = Math.min(partRows, stored.rows - first);
    const params = EMBED_PARAMS.pack({
      first_token: first,
      num_tokens: count,
      units: stride / 8,
      row_vecs: rowVecs(type, cols),
      x_stride: stride / 4,
    });
    calls.push({
      spec: embedSpec({ type, lanes }),
      parts: [
        rig.storage(bytes.slice(first * bytesOfRow, (first + count) * bytesOfRow)),
        tableBuffer,
        last,
        out,
        rig.uniform(params),
      ],
      step: { num_rows: rows.length, first_row: firstRow },
      workgroups: rows.length,
    });
  }
  await rig.run(calls);
  return await rig.floats(out, (rows.length + 1) * stride);
}

for (const type of WEIGHT_TYPES) {
  Deno.test(`embed unpacks ${type} as the reference does`, async () => {
    using rig = await Rig.create();
    const { weights } = BLOCK_GEOMETRY[type];
    const cols = weights === 1 ? 64 : weights * 3;
    const samples: Stored[] = [1, 2].map((seed) => randomStored(type, 9, cols, new Random(seed)));
    if (type !== "F32") samples.push(goldenStored(type));
    for (const stored of samples) {
      const rows = Array.from({ length: stored.rows }, (_, token) => ({ token, slot: 0 }));
      for (const lanes of [8, 32]) {
        const got = await lookUp(rig, stored, lanes, rows, [0]);
        const count = stored.rows * stored.cols;
        assertUnpacked(type, got.subarray(0, count), unpacked(stored), `${type}, ${lanes} lanes`);
      }
    }
  });
}

for (const lanes of [8, 32, 64]) {
  Deno.test(`embed takes given and last sampled tokens from every part, ${lanes} lanes`, async () => {
    using rig = await Rig.create();
    const random = new Random(lanes);
    // 36 columns leave most of a quad, which is filled with zeros.
    for (const cols of [36, 64]) {
      const stored = randomStored("F16", 61, cols, random);
      const matrix = unpacked(stored);
      for (const count of [1, 7, 8, 9, 63, 129]) {
        const rows = Array.from({ length: count }, () => ({
          token: random.next() < 0.3 ? TOKEN_FROM_DEVICE : random.int(0, stored.rows - 1),
          slot: random.int(0, 6),
        }));
        const lastTokens = Array.from({ length: 7 }, () => random.int(0, stored.rows - 1));
        const options = { firstRow: count % 4, partRows: 17 };
        const got = await lookUp(rig, stored, lanes, rows, lastTokens, options);
        const want = embedReference(matrix, cols, 0, stored.rows, rows, lastTokens);
        const stride = paddedCols(cols);
        want.forEach((values, row) => {
          const padded = [...values!, ...new Array(stride - cols).fill(0)];
          const part = Array.from(got.subarray(row * stride, (row + 1) * stride));
          assert.deepEqual(part, padded, `${cols} columns, ${count} rows: row ${row}`);
        });
        const rest = got.subarray(count * stride);
        assert.ok(rest.every((value) => value === UNTOUCHED), "a row too many was written");
      }
    }
  });
}

Deno.test("embed leaves rows alone whose token lies in no part", async () => {
  using rig = await Rig.create();
  const stored = randomStored("F32", 5, 32, new Random(4));
  const rows = [5, 4, 4096].map((token) => ({ token, slot: 0 }));
  const got = await lookUp(rig, stored, 8, rows, [0]);
  const matrix = unpacked(stored);
  const want = embedReference(matrix, 32, 0, 5, rows, [0])
    .flatMap((values) => values ?? new Array<number>(32).fill(UNTOUCHED));
  assert.deepEqual(Array.from(got.subarray(0, 96)), want);
});

Deno.test("embed finds its row when the dispatch is folded into two dimensions", async () => {
  using rig = await Rig.create();
  const random = new Random(6);
  const stored = randomStored("F32", 50, 32, random);
  const rows = Array.from({ length: 65_600 }, () => ({ token: random.int(0, 49), slot: 0 }));
  const got = await lookUp(rig, stored, 8, rows, [0]);
  const matrix = unpacked(stored);
  const wrong = rows.findIndex(({ token }, row) =>
    [0, 1, 2, 3, 28, 29, 30, 31].some((k) => got[row * 32 + k] !== matrix[token * 32 + k])
  );
  assert.equal(wrong, -1, `row ${wrong}`);
  assert.ok(got.subarray(rows.length * 32).every((value) => value === UNTOUCHED));
});
