import {
  CalibrationError,
  type CalibrationErrorCode,
} from "../../src/butler/calibration/errors.ts";
import {
  type CalibratedModel,
  defaultCalibrationPath,
  encodeCalibration,
  findCalibration,
  readCalibration,
} from "../../src/butler/calibration/file.ts";
import { checkWritable, writeCalibration } from "../../src/butler/calibration/write.ts";
import { assetPath, DEFAULT_MODEL } from "../../src/assets.ts";
import { openModel } from "../../src/model/open.ts";
import { llamaFolder, rawSafetensors, withFiles, writeSafetensors } from "../_model_files.ts";
import { madeUp, MODEL } from "./_calibration.ts";
import { assert, fc } from "std-testing";

const BYTES = encodeCalibration(madeUp());

/** Text of the header, and the data, of a calibration. */
function parts(bytes: Uint8Array): { header: string; data: Uint8Array } {
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = new TextDecoder().decode(bytes.subarray(8, 8 + length));
  return { header, data: bytes.slice(8 + length) };
}

/** The same file with another header. */
function withHeader(edit: (header: string) => string): Uint8Array {
  const { header, data } = parts(BYTES);
  const edited = edit(header);
  assert.notEqual(edited, header);
  return rawSafetensors(edited, data);
}

async function read(bytes: Uint8Array, model: CalibratedModel = MODEL) {
  return await withFiles(
    { "a.safetensors": bytes },
    (folder) => Promise.resolve(readCalibration(`${folder}/a.safetensors`, model)),
  );
}

async function refused(
  bytes: Uint8Array,
  code: CalibrationErrorCode,
  message: RegExp,
  model: CalibratedModel = MODEL,
): Promise<void> {
  await assert.rejects(read(bytes, model), (error) => {
    assert.ok(error instanceof CalibrationError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.match(error.message, /\.\/run calibrate/);
    assert.ok(error.message.length < 600, error.message);
    return true;
  });
}

Deno.test("a calibration reads back as it was written, and its bytes are repeatable", async () => {
  assert.deepEqual(await read(BYTES), madeUp());
  assert.deepEqual(encodeCalibration(madeUp()), BYTES);
  const { header, data } = parts(BYTES);
  assert.equal(data.byteOffset % 8, 0);
  assert.equal(new DataView(BYTES.buffer).getBigUint64(0, true) % 8n, 0n);
  assert.equal(JSON.parse(header)["projection"].dtype, "F32");
});

Deno.test("readCalibration() refuses a file for another model, by name", async () => {
  const other = { ...MODEL, fingerprint: "f".repeat(64) };
  await refused(BYTES, "wrong_model", /made for another model/, other);
});

Deno.test("readCalibration() refuses other formats and versions", async () => {
  const plain = writeSafetensors({
    projection: { dtype: "F32", shape: [1], data: new Uint8Array(4) },
  });
  await refused(plain, "wrong_format", /is no calibration/);
  await refused(
    withHeader((h) => h.replace('"format_version":"1"', '"format_version":"2"')),
    "wrong_format",
    /format version "2", this program reads 1/,
  );
  await refused(
    withHeader((h) => h.replace(/"__metadata__":\{[^}]*\},/, "")),
    "wrong_format",
    /is no calibration/,
  );
  await refused(withHeader((h) => h.replace('"8192"', "8192")), "damaged", /metadata is not text/);
  await refused(withHeader((h) => h.replace('"8192"', '"many"')), "damaged", /tokens is "many"/);
});

Deno.test("readCalibration() tells a file of another kind from a damaged one", async () => {
  for (
    const text of ["# A page of text", '{"json": true, "longer": 1}', "GGUF\u0003\0\0\0\u0001\0\0"]
  ) {
    await refused(
      new TextEncoder().encode(text),
      "wrong_format",
      /is no calibration: it does not begin as one does\. Name the file that .*calibrate made/,
    );
  }
  await refused(BYTES.slice(0, BYTES.length - 8), "damaged", /is damaged/);
  await refused(BYTES.slice(0, 5), "damaged", /is damaged/);
});

Deno.test("readCalibration() refuses wrong shapes, types and names", async () => {
  await refused(BYTES, "damaged", /not F32 of \[3, 2, 32, 16\]/, { ...MODEL, headDim: 32 });
  await refused(BYTES, "damaged", /is F32 of \[3, 2, 24, 16\]/, { ...MODEL, numLayers: 2 });
  await refused(
    withHeader((h) => h.replace("[3,2,24,16]", "[2,3,24,16]")),
    "damaged",
    /is F32 of \[2, 3, 24, 16\]/,
  );
  await refused(
    withHeader((h) => h.replace('"F32"', '"I32"')),
    "damaged",
    /is I32 of \[3, 2, 24, 16\]/,
  );
  await refused(
    withHeader((h) => h.replace('"projection"', '"other"')),
    "damaged",
    /has no tensor/,
  );
});

Deno.test("readCalibration() refuses lengths that lie", async () => {
  const { header, data } = parts(BYTES);
  for (const claimed of [2n ** 63n, BigInt(BYTES.length), 20_000n, 1n, 0n]) {
    await refused(rawSafetensors({ json: header, claimed }, data), "damaged", /damaged/);
  }
  await refused(
    withHeader((h) => h.replace(/\[0,\d+\]/, "[0,4]")),
    "damaged",
    /has 4 bytes, not those of its shape/,
  );
  await refused(
    withHeader((h) => h.replace(/\[0,\d+\]/, "[0,9000000000000000]")),
    "damaged",
    /ends early/,
  );
  await refused(withHeader((h) => h.replace("[3,2", "[1e300,2")), "damaged", /damaged/);
  await refused(BYTES.slice(0, -1), "damaged", /ends early/);
  await refused(new Uint8Array(0), "damaged", /ends early/);
});

Deno.test("readCalibration() refuses numbers that no principal component has", async () => {
  for (const value of [NaN, Infinity, -Infinity, 1.5, -3e38]) {
    const calibration = madeUp();
    calibration.projection[1000] = value;
    await refused(encodeCalibration(calibration), "damaged", /entry 1000 of its projection is/);
  }
});

Deno.test("readCalibration() answers any damage with an error of its own, or reads numbers", async () => {
  await withFiles({}, async (folder) => {
    const path = `${folder}/a.safetensors`;
    await fc.assert(fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(699), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      fc.nat(BYTES.length),
      async (edits, length) => {
        const bytes = BYTES.slice(0, Math.max(length, 700));
        for (const [at, value] of edits) bytes[at] = value;
        await Deno.writeFile(path, bytes);
        try {
          readCalibration(path, MODEL);
        } catch (error) {
          assert.ok(error instanceof CalibrationError, String(error));
        }
      },
    ));
  });
});

Deno.test("readCalibration() says what to do about a file that is not there", async () => {
  await withFiles({}, async (folder) => {
    for (
      const [path, message] of [
        [`${folder}/none`, /there is no calibration .*none: make it with \.\/run calibrate/],
        [folder, /cannot be read: it is not a regular file/],
      ] as const
    ) {
      assert.throws(() => readCalibration(path, MODEL), { code: "not_found", message });
    }
    await Promise.resolve();
  });
});

Deno.test("writeCalibration() replaces a file as a whole, and says why it cannot", async () => {
  await withFiles({ "old.safetensors": "old" }, async (folder) => {
    const path = `${folder}/old.safetensors`;
    checkWritable(path);
    assert.equal(await Deno.readTextFile(path), "old");
    writeCalibration(path, madeUp());
    assert.deepEqual(readCalibration(path, MODEL), madeUp());
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["old.safetensors"]);
    const expected = (message: RegExp) => ({ name: "CalibrationError", message });
    for (const write of [checkWritable, (to: string) => writeCalibration(to, madeUp())]) {
      assert.throws(() => write(`${folder}/none/a`), expected(/its folder does not exist/));
      assert.throws(() => write(folder), expected(/cannot write/));
    }
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["old.safetensors"]);
  });
});

Deno.test("findCalibration() looks beside a file and in a folder", async () => {
  const { config, tensors } = llamaFolder();
  const weights = writeSafetensors(tensors);
  const files = { "config.json": JSON.stringify(config), "part.safetensors": weights };
  await withFiles(files, async (folder) => {
    const path = `${folder}/loki.safetensors`;
    const models = [`${folder}/model.gguf`, folder, `${folder}/`];
    for (const model of models) {
      assert.equal(defaultCalibrationPath(model), path);
      assert.equal(findCalibration(model), null);
    }
    const before = await openModel(folder);
    before.close();
    await Deno.writeFile(path, BYTES);
    for (const model of models) assert.equal(findCalibration(model), path);
    assert.equal(defaultCalibrationPath("model.gguf"), "loki.safetensors");
    // It is none of the model's weights, although it lies among them.
    const after = await openModel(folder);
    after.close();
    assert.equal(await after.tensors.size, before.tensors.size);
  });
});

Deno.test("the calibration that comes with the program belongs to its model", async () => {
  const modelPath = assetPath(DEFAULT_MODEL.path);
  const path = findCalibration(modelPath);
  assert.ok(path !== null);
  const source = await openModel(modelPath);
  try {
    const { numLayers, numKvHeads, headDim } = source.config;
    const fingerprint = await source.fingerprint();
    const { projection } = readCalibration(path, {
      fingerprint,
      numLayers,
      numKvHeads,
      headDim,
    });
    // Columns are of length one and at right angles, or the file was not made by calibrate.
    for (let start = 0; start < projection.length; start += headDim * 16) {
      for (let a = 0; a < 16; a++) {
        for (let b = 0; b <= a; b++) {
          let product = 0;
          for (let i = 0; i < headDim; i++) {
            product += projection[start + i * 16 + a]! * projection[start + i * 16 + b]!;
          }
          assert.ok(Math.abs(product - (a === b ? 1 : 0)) < 1e-5, `${start}: ${a}, ${b}`);
        }
      }
    }
  } finally {
    source.close();
  }
});
