/** Evaluations with an engine of their own, on a tiny model. */
import { runCommand } from "../../src/cli/cli.ts";
import { corefCommand } from "../../src/cli/commands/eval/coref.ts";
import { recallCommand } from "../../src/cli/commands/eval/recall.ts";
import { createEngineParts } from "../../src/engine/create.ts";
import { PREDICTOR_NAME } from "../../src/model/side_files.ts";
import { tinyModel } from "../golden/_golden.ts";
import { makeCalibration, makePredictor } from "../golden/_offload.ts";
import { withFiles } from "../_model_files.ts";
import { FakeIo } from "./_io.ts";
import { runWith } from "./_parts.ts";
import { assert } from "std-testing";

const MODEL = decodeURIComponent(new URL("../data/tiny/llama31-bf16", import.meta.url).pathname);
const TEXT = Array.from({ length: 300 }, (_, i) => `Line ${i} of a text, ${i * i % 977}.\n`).join(
  "",
);

Deno.test("eval recall: the true top-B by the oracle, less by others; resumed from its file", async () => {
  const calibration = await makeCalibration();
  await withFiles({ "a.txt": TEXT }, async (folder) => {
    const ask = `--model ${MODEL} --text ${folder}/a.txt --part all --windows 2 --tokens 160 ` +
      `--rows 10 --budget 12 --window 8 --batch 4 --calibration ${calibration} ` +
      `--out ${folder}/recall.json --svg ${folder}/recall.svg`;
    const io = await runWith(recallCommand, ask);
    assert.match(io.err, /tokenbutler is left out: the model has no predictor/);
    assert.match(io.out, /a\.txt: 2 windows, 20 rows/);
    assert.match(io.out, /oracle +1\.0000 +(0\.\d+) +\1/);
    assert.match(await Deno.readTextFile(`${folder}/recall.svg`), /Recall of the true top-B/);
    const text = await Deno.readTextFile(`${folder}/recall.json`);
    const { figures, origin } = JSON.parse(text);
    assert.deepEqual(
      figures.map((of: { policy: string; total: number }) => [of.policy, of.total]),
      [["oracle", 24], ["quest", 24], ["streaming", 24], ["loki", 24]],
    );
    assert.equal(origin.budget, 12);
    const [oracle, quest, streaming, loki] = figures;
    for (const other of [quest, streaming, loki]) {
      assert.ok(other.recall < 1 && other.recall > 0, other.policy);
      assert.ok(other.mass < oracle.mass && other.mass > 0, other.policy);
    }
    assert.equal(oracle.layers.length, 3);
    assert.deepEqual(oracle.layers.map(({ selects }: { selects: boolean }) => selects), [
      false,
      true,
      true,
    ]);
    assert.equal(oracle.layers[1].recall.length, 2);
    // What is there is not measured again.
    await runWith(recallCommand, ask);
    assert.equal(await Deno.readTextFile(`${folder}/recall.json`), text);
    // Keys in bytes are another evaluation, with nearly the same figures.
    await assert.rejects(
      runWith(recallCommand, `${ask} --importance-keys int8`),
      /importanceKeys is "f16", not "int8"/,
    );
    const bytes = ask.replace("recall.json", "bytes.json").replace(
      "--svg",
      "--policies loki --svg",
    );
    await runWith(recallCommand, `${bytes} --importance-keys int8`);
    const [short] = JSON.parse(await Deno.readTextFile(`${folder}/bytes.json`)).figures;
    assert.ok(short.recall !== loki.recall && Math.abs(short.recall - loki.recall) < 0.05);
  });
});

Deno.test("eval coref: tokens of names under each policy; goes on with the story it stopped at", async () => {
  await withFiles({}, async (folder) => {
    const ask =
      `--model ${MODEL} --stories 3 --names 999 --tokens 64 --keep 1,0.1 --window 8 --batch 16 ` +
      `--policies streaming,snapkv --kv-type f32 --out ${folder}/coref.json`;
    const io = await runWith(corefCommand, ask);
    assert.match(io.out, /3 stories; dense attention predicts \d+ tokens of names/);
    assert.match(io.out, /snapkv +10\.0 %/);
    const path = `${folder}/coref.json`;
    const text = await Deno.readTextFile(path);
    const { figures, origin } = JSON.parse(text);
    assert.deepEqual(
      figures.map((of: { policy: string; keep: number }) => [of.policy, of.keep]),
      [
        ["dense", null],
        ["oracle", 1],
        ["oracle", 0.1],
        ["snapkv", 1],
        ["snapkv", 0.1],
        ["streaming", 1],
        ["streaming", 0.1],
      ],
    );
    assert.equal(origin.seed, 0);
    const [dense, ...others] = figures;
    for (const of of figures) {
      assert.equal(of.stories.length, 3);
      of.stories.forEach((story: string, index: number) => {
        assert.match(story, /^[01]+$/);
        assert.equal(story.length, dense.stories[index].length);
      });
      // All rows kept: the same as dense attention.
      if (of.keep === 1) assert.deepEqual(of.stories, dense.stories, of.policy);
    }
    const cut = JSON.parse(text);
    cut.figures[0].stories.pop();
    cut.figures[4].stories.length = 1;
    await Deno.writeTextFile(path, JSON.stringify(cut));
    await runWith(corefCommand, ask);
    assert.deepEqual(JSON.parse(await Deno.readTextFile(path)).figures, [dense, ...others]);
    // Dense attention knew enough after the first story: no other one is told.
    const known = JSON.parse(text);
    for (const of of known.figures) of.stories = [];
    known.figures[0].stories = [dense.stories[0].replaceAll("0", "1")];
    await Deno.writeTextFile(path, JSON.stringify(known));
    const few = await runWith(corefCommand, ask.replace("--names 999", "--names 2"));
    assert.match(few.out, /1 stories; dense attention predicts [2-9]/);
    assert.ok(
      JSON.parse(await Deno.readTextFile(path)).figures
        .every((of: { stories: string[] }) => of.stories.length === 1),
    );
  });
});

Deno.test("eval says which predictor it leaves aside, and names none in its results", async () => {
  const others = await makePredictor((await tinyModel("qwen3-qknorm-f32")).path);
  await withFiles({ "a.txt": TEXT }, async (folder) => {
    for (const { name } of Deno.readDirSync(MODEL)) {
      await Deno.copyFile(`${MODEL}/${name}`, `${folder}/${name}`);
    }
    await Deno.copyFile(others, `${folder}/${PREDICTOR_NAME}`);
    const ask = `--model ${folder} --text ${folder}/a.txt --part all --windows 1 --tokens 96 ` +
      `--rows 2 --budget 12 --window 8 --policies streaming --json`;
    const io = await runWith(recallCommand, ask);
    assert.match(io.err, /note: predictor left aside: .* was trained for another model/);
    assert.equal(JSON.parse(io.out).origin.predictor, null);
    await assert.rejects(
      runWith(recallCommand, `${ask} --predictor ${others}`),
      /was trained for another model/,
    );
  });
});

Deno.test("eval recall and coref refuse what cannot be, and say why", async () => {
  await withFiles({ "a.txt": TEXT }, async (folder) => {
    const text = `--model ${MODEL} --text ${folder}/a.txt`;
    const cases: [typeof recallCommand, string, RegExp][] = [
      [recallCommand, `--model ${MODEL}`, /--text is needed/],
      [recallCommand, `${text} --tokens 128`, /--tokens must be at least 200/],
      [recallCommand, `${text} --policies h2o`, /wanted some of oracle, quest/],
      [corefCommand, `--model ${MODEL} --keep 0`, /--keep wants shares above 0/],
      [
        corefCommand,
        `--model ${MODEL} --stories 2 --keep 0.01`,
        /is less than sinks and window, 36/,
      ],
    ];
    for (const [make, line, message] of cases) {
      const io = new FakeIo();
      const run = runCommand(make(createEngineParts), line.split(" "), io);
      await assert.rejects(run, message, line);
    }
  });
});
