import { EXIT } from "../../src/cli/io.ts";
import { calibrate } from "../../src/butler/calibration/calibrate.ts";
import { readCalibration } from "../../src/butler/calibration/file.ts";
import { MOST_KEY_ROWS, openKeys, readKeys } from "../../src/butler/calibration/read_keys.ts";
import { runCommand } from "../../src/cli/cli.ts";
import { reportError } from "../../src/cli/cli.ts";
import { calibrateCommand, command } from "../../src/cli/commands/calibrate.ts";
import { createEngineParts, type EngineParts } from "../../src/engine/create.ts";
import { openModel } from "../../src/model/open.ts";
import { FakeIo } from "../cli/_io.ts";
import { openEngine } from "../golden/_engine.ts";
import { withFiles } from "../_model_files.ts";
import { assert } from "std-testing";

const TINY = decodeURIComponent(new URL("../data/tiny/", import.meta.url).pathname);
const MODEL = `${TINY}llama31-bf16`;
const TEXT = Array.from({ length: 60 }, (_, i) => `Line ${i} of a text, ${i * i}.\n`).join("");

Deno.test("readKeys() gives the same rows however they are cut, in both types", async () => {
  const ids = Array.from({ length: 190 }, (_, i) => (i * 37 + 11) % 200);
  const byType: Float32Array[] = [];
  for (const kvType of ["f32", "f16"] as const) {
    await using opened = await openEngine(MODEL, { kvType, contextLength: 192, maxSequences: 2 });
    const { parts } = opened;
    // The other slot holds pages in between, so that the table matters.
    parts.kv.reserve(0, 40);
    parts.kv.reserve(1, 40);
    parts.kv.reserve(0, 70);
    parts.kv.reserve(1, ids.length);
    for (let start = 0; start < ids.length; start += 50) {
      const tokens = ids.slice(start, start + 50);
      await parts.runner.prefill({ slot: 1, start, tokens, sample: null, scoring: null });
    }
    using keys = await openKeys(parts, { numKvHeads: 2, headDim: 32 });
    const whole = await readKeys(keys, 1, 2, 0, ids.length);
    assert.equal(whole.length, 2 * 190 * 32);
    assert.ok(whole.every(Number.isFinite) && whole.some((value) => Math.abs(value) > 0.01));
    for (const [first, count] of [[0, 1], [31, 2], [32, 32], [5, 140], [189, 1]] as const) {
      const part = await readKeys(keys, 1, 2, first, count);
      for (let head = 0; head < 2; head++) {
        const start = (head * 190 + first) * 32;
        assert.deepEqual(
          part.subarray(head * count * 32, (head + 1) * count * 32),
          whole.subarray(start, start + count * 32),
        );
      }
    }
    await assert.rejects(readKeys(keys, 1, 2, 100, 93), RangeError);
    await assert.rejects(readKeys(keys, 1, 2, 0, MOST_KEY_ROWS + 1), RangeError);
    byType.push(whole);
  }
  const [full, half] = byType;
  full!.forEach((value, i) => {
    assert.ok(Math.abs(value - half![i]!) <= 0.02 + Math.abs(value) / 256);
  });
});

Deno.test("calibrate() adds up the keys of all windows and gives the slot back", async () => {
  const model = { fingerprint: "f", numLayers: 2, numKvHeads: 3, headDim: 20 };
  const seen: string[] = [];
  const progress: number[] = [];
  const { calibration, shares } = await calibrate({
    model,
    runner: {
      prefill: ({ start, tokens }) => {
        seen.push(`prefill ${start} ${tokens.join()}`);
        return Promise.resolve({ sampled: null, scores: [] });
      },
    },
    kv: {
      usage: { pageSize: 32, numPages: 4, pagesInUse: 0 },
      reserve: (_slot, count) => void seen.push(`reserve ${count}`),
      release: () => void seen.push("release"),
    },
    // Every key of head h of layer l points along axis 3 l + h.
    readKeys: (_slot, layer, first, count) => {
      seen.push(`read ${layer} ${first} ${count}`);
      const keys = new Float32Array(3 * count * 20);
      for (let h = 0; h < 3; h++) {
        for (let r = 0; r < count; r++) keys[(h * count + r) * 20 + 3 * layer + h] = -2;
      }
      return Promise.resolve(keys);
    },
    rowsPerRead: 3,
    windows: [[1, 2, 3, 4, 5], [6]],
    chunk: 2,
    program: "test",
    onProgress: (done) => progress.push(done),
  });
  assert.deepEqual(seen, [
    ...["reserve 5", "prefill 0 1,2", "prefill 2 3,4", "prefill 4 5"],
    ...["read 0 0 3", "read 0 3 2", "read 1 0 3", "read 1 3 2", "release"],
    ...["reserve 1", "prefill 0 6", "read 0 0 1", "read 1 0 1", "release"],
  ]);
  assert.deepEqual(progress, [2, 4, 5, 6]);
  assert.deepEqual(calibration.origin, { tokens: 6, context: 5, program: "test" });
  assert.deepEqual(shares, Array(6).fill(1));
  for (let head = 0; head < 6; head++) {
    // The first column of the head's matrix is its axis.
    const column = Array.from(
      { length: 20 },
      (_, i) => calibration.projection[head * 320 + i * 16]!,
    );
    assert.deepEqual(column, Array.from({ length: 20 }, (_, i) => i === head ? 1 : 0));
  }
});

Deno.test("calibrate() gives the slot back when a step fails, and refuses no text", async () => {
  let reserved = 0;
  const run = {
    model: { fingerprint: "f", numLayers: 1, numKvHeads: 1, headDim: 4 },
    runner: { prefill: () => Promise.reject(new Error("lost")) },
    kv: {
      usage: { pageSize: 32, numPages: 4, pagesInUse: 0 },
      canReserve: () => true,
      reserve: () => void reserved++,
      release: () => void reserved--,
    },
    readKeys: () => Promise.resolve(new Float32Array(0)),
    rowsPerRead: 8,
    chunk: 8,
    program: "test",
  };
  await assert.rejects(calibrate({ ...run, windows: [[1]] }), /lost/);
  assert.equal(reserved, 0);
  await assert.rejects(calibrate({ ...run, windows: [] }), { code: "bad_keys" });
});

Deno.test("the command writes a file that reads back, the same one every time", async () => {
  await withFiles({ "a.txt": TEXT, "b.txt": TEXT.toUpperCase() }, async (folder) => {
    const calibrated = async (out: string, more: string) => {
      let parts: EngineParts | undefined;
      const io = new FakeIo();
      const flags = `--model ${MODEL} --text ${folder}/a.txt --text ${folder}/b.txt ` +
        `--tokens 300 --context 100 --out ${folder}/${out}${more}`;
      try {
        const made = calibrateCommand(async (...options) => {
          parts = await createEngineParts(...options);
          return parts;
        });
        assert.equal(await runCommand(made, flags.split(" "), io), 0, io.err);
      } finally {
        await parts?.dispose();
      }
      return io;
    };
    const io = await calibrated("one", " --json");
    const summary = JSON.parse(io.out);
    const { fingerprint, seconds, energy_kept, ...rest } = summary;
    assert.ok(seconds > 0 && energy_kept > 0.5 && energy_kept <= 1);
    assert.deepEqual(rest, {
      out: `${folder}/one`,
      tokens: 300,
      windows: 3,
      context: 100,
      layers: 3,
      kv_heads: 2,
      head_size: 32,
      dimensions: 16,
    });
    const source = await openModel(MODEL);
    assert.equal(fingerprint, await source.fingerprint());
    source.close();
    const model = { fingerprint, numLayers: 3, numKvHeads: 2, headDim: 32 };
    const { origin, projection } = readCalibration(`${folder}/one`, model);
    assert.equal(origin.tokens, 300);
    assert.equal(origin.context, 100);
    assert.equal(projection.length, 3 * 2 * 32 * 16);
    const other = await calibrated("two", "");
    assert.match(other.out, /two: 16 of 32 dimensions hold [\d.]+ % .*; 300 tokens in 3 windows, /);
    assert.deepEqual(await Deno.readFile(`${folder}/two`), await Deno.readFile(`${folder}/one`));
  });
});

Deno.test("the command refuses what cannot work before it opens a device", async () => {
  await withFiles({ "a.txt": TEXT, "empty.txt": "", "old": "old" }, async (folder) => {
    const cases: [string, RegExp][] = [
      ["", /--text is needed/],
      [`--text ${folder}/none`, /--text: cannot read .*there is no such file/],
      [`--text ${folder}/a.txt --out ${folder}/no/out`, /its folder does not exist/],
      [`--text ${folder}/a.txt --out ${folder}`, /it is a folder/],
      [`--text ${folder}/a.txt --out ${folder}/old --model ${folder}/m.gguf`, /m\.gguf/],
      [`--text ${folder}/empty.txt --out ${folder}/old`, /the text gives no token/],
      [
        `--text ${folder}/a.txt --out ${folder}/old --model ${TINY}mistral-f32`,
        /has no tokenizer/,
      ],
      [`--text ${folder}/a.txt --tokens 3`, /--tokens: wanted a whole number from 64/],
    ];
    for (const [line, message] of cases) {
      const io = new FakeIo();
      const args = line === "" ? [] : line.split(" ");
      let got = 0;
      try {
        got = await runCommand(command, args, io);
      } catch (error) {
        got = reportError(error, "calibrate", io);
      }
      // None of them could work the next time.
      assert.equal(got, EXIT.usage, `${line}: ${io.err}`);
      assert.match(io.err, message);
      assert.doesNotMatch(io.err, /defect/);
    }
    const left = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
    assert.deepEqual(left, ["a.txt", "empty.txt", "old"]);
    assert.equal(await Deno.readTextFile(`${folder}/old`), "old");
  });
});
