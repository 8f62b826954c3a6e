import { PredictorError, type PredictorErrorCode } from "../../src/butler/predictor/errors.ts";
import { encodePredictor, findPredictor, readPredictor } from "../../src/butler/predictor/file.ts";
import { assetPath, DEFAULT_MODEL } from "../../src/assets.ts";
import { openModel } from "../../src/model/open.ts";
import {
  importanceKey,
  importanceQueries,
  importanceScore,
} from "../../src/butler/predictor/predictor.ts";
import {
  parameterCount,
  type PredictedModel,
  producerOf,
  producersOf,
} from "../../src/butler/predictor/shape.ts";
import { MAX_PARAMETER_SHARE } from "../../src/butler/predictor/shape.ts";
import { Random } from "../gpu/_rig.ts";
import { rawSafetensors, withFiles } from "../_model_files.ts";
import { randomPredictor } from "./_predictor.ts";
import { assert } from "std-testing";

const MODEL: PredictedModel = {
  fingerprint: "a".repeat(64),
  numLayers: 6,
  hiddenSize: 24,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 8,
};
const SHAPE = { model: MODEL, stride: 4, inner: 5 };
const NOTES = {
  training: { seed: 7, text: ["a.txt"] },
  results: { recall: 0.5 },
  budgets: null,
  program: "1.2.3",
};
const STORED = { predictor: randomPredictor(SHAPE, new Random(3)), notes: NOTES };
const BYTES = encodePredictor(STORED);

async function read(bytes: Uint8Array, model = MODEL, most?: number) {
  return await withFiles(
    { "a.safetensors": bytes },
    (folder) => Promise.resolve(readPredictor(`${folder}/a.safetensors`, model, most)),
  );
}

async function refused(
  bytes: Uint8Array,
  code: PredictorErrorCode,
  message: RegExp,
  model = MODEL,
  most?: number,
): Promise<void> {
  await assert.rejects(read(bytes, model, most), (error) => {
    assert.ok(error instanceof PredictorError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.ok(error.message.length < 600, error.message);
    return true;
  });
}

/** The same file with another header. */
function withHeader(edit: (header: string) => string): Uint8Array {
  const length = Number(new DataView(BYTES.buffer).getBigUint64(0, true));
  const header = new TextDecoder().decode(BYTES.subarray(8, 8 + length));
  const edited = edit(header);
  assert.notEqual(edited, header);
  return rawSafetensors(edited, BYTES.slice(8 + length));
}

Deno.test("a predictor reads back as it was written, and its bytes are repeatable", async () => {
  assert.deepEqual(await read(BYTES), STORED);
  assert.deepEqual(encodePredictor(STORED), BYTES);
});

Deno.test("readPredictor() refuses what is not for this model, too large or damaged", async () => {
  await refused(BYTES, "wrong_model", /another model/, { ...MODEL, fingerprint: "b".repeat(64) });
  await refused(BYTES, "too_large", /--max-parameters/, MODEL, parameterCount(SHAPE) - 1);
  await read(BYTES, MODEL, parameterCount(SHAPE));
  await refused(BYTES.slice(0, -4), "damaged", /ends early|ends at|bytes/);
  await refused(
    withHeader((h) => h.replace("-predictor", "-calibration")),
    "wrong_format",
    /no pred/,
  );
  await refused(
    withHeader((h) => h.replace('version":"1"', 'version":"2"')),
    "wrong_format",
    /"2"/,
  );
  await refused(withHeader((h) => h.replace('"inner":"5"', '"inner":"4"')), "damaged", /up.weight/);
  await refused(
    withHeader((h) => h.replace('"inner":"5"', '"inner":"60000"')),
    "damaged",
    /its sizes need/,
  );
  await refused(withHeader((h) => h.replace('"stride":"4"', '"stride":"0"')), "damaged", /stride/);
  await refused(
    withHeader((h) => h.replace("producers.1.up", "producers.2.up")),
    "damaged",
    /1.up/,
  );
  await refused(
    withHeader((h) => h.replace('"budgets":"null"', '"budgets":"{"')),
    "damaged",
    /JSON/,
  );
  const bad = BYTES.slice();
  bad.set([0, 0, 0xc0, 0x7f], bad.length - 4);
  await refused(bad, "damaged", /NaN/);
  assert.throws(() => readPredictor("/nowhere/a.safetensors", MODEL), /there is no predictor/);
});

Deno.test("producers serve the layers after theirs, and parameters are counted as published", () => {
  assert.deepEqual(producersOf(SHAPE), [
    { index: 0, layer: 0, first: 1, count: 4 },
    { index: 1, layer: 4, first: 5, count: 1 },
  ]);
  assert.deepEqual([0, 1, 4, 5].map((layer) => producerOf(SHAPE, layer)), [null, 0, 0, 1]);
  const values = STORED.predictor.producers.reduce(
    (sum, { normWeight, normBias, up, down }) =>
      sum + normWeight.length + normBias.length + up.length + down.length,
    STORED.predictor.keys.length,
  );
  assert.equal(parameterCount(SHAPE), values);
  // SmolLM2-135M with a width of 128: 1,281,024, less what three layers after the last would take.
  const model = { numLayers: 30, hiddenSize: 576, numHeads: 9, numKvHeads: 3, headDim: 64 };
  const small = { model: { ...model, fingerprint: "" }, stride: 4, inner: 128 };
  assert.equal(parameterCount(small), 1_281_024 - 3 * 9 * 16 * 128);
});

Deno.test("importance is the largest of the query heads' products with the projected key", () => {
  const x = new Random(5).floats(24, 2);
  const queries = importanceQueries(STORED.predictor.producers[0]!, x);
  assert.equal(queries.length, 4 * 4 * 16);
  const key = importanceKey([...Array(32).fill(0.5)], [1, 3]);
  assert.deepEqual([...key], Array(16).fill(2));
  assert.equal(importanceScore([Array(16).fill(1), Array(16).fill(-1)], key), 8);
});

Deno.test("the predictor that comes with the program belongs to its model", async () => {
  const path = assetPath(DEFAULT_MODEL.path);
  const source = await openModel(path);
  const { numLayers, hiddenSize, numHeads, numKvHeads, headDim } = source.config;
  const fingerprint = await source.fingerprint();
  source.close();
  const model = { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim };
  const most = MAX_PARAMETER_SHARE * source.numParameters;
  const { predictor, notes } = readPredictor(findPredictor(path)!, model, most);
  assert.equal(predictor.producers.length, 8);
  assert.equal(notes.budgets?.roles.length, numLayers);
  const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(findPredictor(path)!));
  const readme = await Deno.readTextFile(assetPath("weights/smollm2-135m-instruct/README.md"));
  assert.ok(readme.includes(new Uint8Array(digest).toHex()), "its README has another checksum");
});
