/** A predictor from text by the command, and what it is worth by the other one, on a tiny model. */
import { assetPath, DEFAULT_MODEL } from "../../src/assets.ts";
import { findPredictor, readPredictor } from "../../src/butler/predictor/file.ts";
import { reportError, runCommand } from "../../src/cli/cli.ts";
import { command as evalCommand } from "../../src/cli/commands/eval.ts";
import { pplCommand } from "../../src/cli/commands/eval/ppl.ts";
import { command, trainCommand } from "../../src/cli/commands/train.ts";
import type { AnyCommand } from "../../src/cli/command.ts";
import { openModel } from "../../src/model/open.ts";
import { withFullDisk } from "../_full_disk.ts";
import { withFiles } from "../_model_files.ts";
import { FakeIo } from "./_io.ts";
import { runWith } from "./_parts.ts";
import { assert } from "std-testing";

const TINY = decodeURIComponent(new URL("../data/tiny/", import.meta.url).pathname);
const MODEL = `${TINY}llama31-bf16`;
/** The predictor of another model. */
const OTHERS = findPredictor(assetPath(DEFAULT_MODEL.path))!;
const TEXT = Array.from({ length: 900 }, (_, i) => `Line ${i} of a text, ${i * i % 977}.\n`).join(
  "",
);

Deno.test("train writes a predictor, and eval ppl compares policies with it", async () => {
  await withFiles({ "a.txt": TEXT }, async (folder) => {
    const line = `--model ${MODEL} --text ${folder}/a.txt --windows 3 --tokens 192 --rows 32 ` +
      `--held-out 2 --held-out-tokens 192 --epochs 2 --inner 16 --stride 2 --max-parameters 1 ` +
      `--out ${folder}/butler.safetensors`;
    const io = await runWith(trainCommand, `${line} --json`);
    const summary = JSON.parse(io.out);
    assert.equal(summary.out, `${folder}/butler.safetensors`);
    assert.ok(summary.recall > 0.2 && summary.recall <= 1);
    assert.ok(summary.mass <= summary.best_mass && summary.best_mass <= 1);
    assert.equal(summary.layers.length, 2);
    const source = await openModel(MODEL);
    const { numLayers, hiddenSize, numHeads, numKvHeads, headDim } = source.config;
    const fingerprint = await source.fingerprint();
    source.close();
    const model = { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim };
    const { predictor, notes } = readPredictor(summary.out, model);
    assert.deepEqual([predictor.shape.stride, predictor.shape.inner], [2, 16]);
    assert.deepEqual(notes.budgets?.roles, ["dense", "selected", "selected"]);
    assert.equal((notes.training as { epochs: number }).epochs, 2);
    // The same command again: everything is there already, and the bytes are the same.
    const before = await Deno.readFile(summary.out);
    await runWith(trainCommand, line);
    assert.deepEqual(await Deno.readFile(summary.out), before);
    assert.ok(summary.seconds > 0 && notes.results !== null);
    // Budgets for other contexts: nothing else changes.
    await runWith(
      trainCommand,
      `${line.replace("--epochs 2", "--epochs 0")} --out ${folder}/other.safetensors ` +
        `--from ${summary.out} --table-tokens 128`,
    );
    const moved = readPredictor(`${folder}/other.safetensors`, model);
    assert.deepEqual(moved.predictor, predictor);
    assert.notDeepEqual(moved.notes.budgets, notes.budgets);
    assert.deepEqual(moved.notes.training, { ...notes.training as object, tableTokens: 128 });
    assert.deepEqual(moved.notes.results, notes.results);
    // The first layer is what its attention says.
    const auto = await runWith(
      trainCommand,
      `${line} --out ${folder}/auto.safetensors --cache ${folder}/butler.training ` +
        "--first-layer auto",
    );
    const [, role, least, most, elsewhere] = auto.err.match(
      /note: the first layer is (\w+): of its attention a window covers ([\d.]+) % at a mean budget of 16 and ([\d.]+) % at 476, chosen rows cover ([\d.]+) % and [\d.]+ % elsewhere/,
    )!;
    assert.ok(Number(least) > 0 && Number(least) <= Number(most) && Number(most) <= 100);
    if (Number(least) < Number(elsewhere)) assert.equal(role, "dense");
    const { roles, points } = readPredictor(`${folder}/auto.safetensors`, model).notes.budgets!;
    assert.deepEqual([roles, points], [[role, "selected", "selected"], notes.budgets!.points]);
    await assert.rejects(
      runWith(trainCommand, `${line.replace("--inner 16", "--inner 8")} --from ${summary.out}`),
      /--from: .* has a stride of 2 and a width of 16: give --stride 2 --inner 16/,
    );

    const ask = `--model ${MODEL} --text ${folder}/a.txt --part all --windows 2 --tokens 128 ` +
      `--policies tokenbutler,oracle,streaming,h2o --totals 24,96 --window 8 --batch 16 ` +
      `--kv-type f32 --predictor ${summary.out} --max-parameters 1 --out ${folder}/ppl.json --svg ${folder}/ppl.svg`;
    const { out } = await runWith(pplCommand, ask);
    assert.match(out, /a\.txt: 2 windows, 126 rows; perplexity of dense attention \d/);
    assert.match(out, /tokenbutler \(same B for all heads\) +\d/);
    assert.match(await Deno.readTextFile(`${folder}/ppl.svg`), /^<svg/);
    // Without the same B for all heads: what was asked for, and nothing of the rest.
    const few = await runWith(
      pplCommand,
      `${ask.replace(/ --(out|svg) \S+/g, "").replace(/tokenbutler,\S+/, "tokenbutler")} ` +
        "--budgets table --json",
    );
    assert.deepEqual(
      JSON.parse(few.out).figures.map(({ table }: { table: boolean | null }) => table),
      [null, true, true],
    );
    await assert.rejects(
      runWith(
        pplCommand,
        `--model ${MODEL} --text ${folder}/a.txt --part all --windows 1 --tokens 128 ` +
          "--policies oracle --totals 64 --budgets table",
      ),
      /--budgets table: no predictor with a table of budgets is there/,
    );
    const { figures, origin } = JSON.parse(await Deno.readTextFile(`${folder}/ppl.json`));
    assert.equal(figures.length, 1 + 2 * 5);
    assert.equal(origin.model, "llama31-bf16");
    for (const name of ["device", "fingerprint", "predictor", "commit", "sinks", "window"]) {
      assert.ok(origin[name] != null, name);
    }
    const nll = (policy: string, total: number | null, table: boolean | null = null) =>
      figures.find((of: { policy: string; total: number | null; table: boolean | null }) =>
        of.policy === policy && of.total === total && of.table === table
      ).nll;
    // 96 rows are nearly all of 64 to 127.
    assert.ok(
      Math.abs(nll("oracle", 96) - nll("dense", null)) <
        Math.abs(nll("oracle", 24) - nll("dense", null)),
    );
    for (const { nll, nlls, rows } of figures) {
      assert.equal(nlls.length, 2);
      assert.equal(rows, 126);
      assert.ok(Math.abs(nll - (nlls[0] + nlls[1]) / 2) < 1e-12);
    }
    // What is there is not measured again; other settings are another evaluation.
    const text = await Deno.readTextFile(`${folder}/ppl.json`);
    await runWith(pplCommand, ask);
    assert.equal(await Deno.readTextFile(`${folder}/ppl.json`), text);
    // It goes on with the window that it was ended at, to the same figures.
    const ended = JSON.parse(text);
    for (const at of [0, 3]) {
      const figure = ended.figures[at];
      figure.nlls.pop();
      Object.assign(figure, { rows: 63, nll: figure.nlls[0] });
    }
    Object.assign(ended.figures.at(-1), { nlls: [], rows: 0, nll: 0 });
    ended.figures.splice(5, 1);
    await Deno.writeTextFile(`${folder}/ppl.json`, JSON.stringify(ended));
    await runWith(pplCommand, ask);
    const resumed = JSON.parse(await Deno.readTextFile(`${folder}/ppl.json`)).figures;
    assert.deepEqual(resumed.toSpliced(5, 0, resumed.pop()), figures);
    await Deno.writeTextFile(`${folder}/ppl.json`, text);
    const io2 = new FakeIo();
    const other = ask.replace("--window 8", "--window 9").split(" ");
    await assert.rejects(
      runWith(pplCommand, other.join(" ")),
      /is of another evaluation \(window is 8, not 9\)/,
    );
    assert.equal(io2.out, "");
  });
});

Deno.test("train --dry-run says how long and how large it would be, and writes nothing", async () => {
  await withFiles({ "a.txt": TEXT }, async (folder) => {
    const line =
      `--model ${MODEL} --text ${folder}/a.txt --windows 3 --tokens 128 --rows 16 --held-out 2 ` +
      `--held-out-tokens 192 --table-tokens 256 --epochs 2 --inner 8 --stride 2 ` +
      `--max-parameters 1 --svg ${folder}/a.svg --out ${folder}/a.safetensors`;
    const files = () => [...Deno.readDirSync(folder)].map(({ name }) => name).toSorted();
    const plan = JSON.parse((await runWith(trainCommand, `${line} --dry-run --json`)).out);
    assert.deepEqual(files(), ["a.txt"]);
    assert.ok(plan.capture_seconds >= 0 && plan.train_seconds >= 0);
    // Half a window is no multiple of a tile: fewer rows are taken.
    const few = line.replace("--windows 3", "--windows 1").replace("--tokens 128", "--tokens 136")
      .replace("--rows 16", "--rows 160") + " --memory 1MiB --dry-run";
    const { out } = await runWith(trainCommand, few);
    assert.match(
      out,
      /^\d+ parameters; 1 windows of 136 tokens to train on, 4 to measure on\nrunning the model: about \d+ s, \d+ MiB on disk\ntraining: about \d+ s, 1 MiB on the device\n$/,
    );
    // As large as it says.
    const io = await runWith(trainCommand, `${line} --json`);
    const summary = JSON.parse(io.out);
    assert.equal(plan.parameters, summary.parameters);
    assert.match(io.err, /producer 0, step 0 of 6: before training, recall 0\.\d+\n/);
    assert.match(io.err, /producer 0, step 6 of 6: loss \d+\.\d+, recall 0\.\d+\n/);
    assert.deepEqual([plan.windows, plan.held_out], [3, 4]);
    const captured = [...Deno.readDirSync(`${folder}/a.training`)]
      .filter(({ name }) => name.endsWith(".capture"))
      .map(({ name }) => Deno.statSync(`${folder}/a.training/${name}`).size);
    assert.equal(captured.length, 3);
    assert.equal(plan.disk_bytes, captured.reduce((sum, size) => sum + size, 0));
    assert.ok(plan.device_bytes > 0);
    // A line of each producer in both charts.
    const picture = await Deno.readTextFile(`${folder}/a.svg`);
    assert.match(picture, /^<svg.*Loss of the windows of an epoch.*Recall of the true top-64/s);
    assert.match(picture, /producer 0.*producer 0/s);
  });
});

Deno.test("train goes on after a full disk or damage, to the same bytes", async () => {
  await withFiles({ "a.txt": TEXT }, async (folder) => {
    const line = (name: string) =>
      `--model ${MODEL} --text ${folder}/a.txt --windows 3 --tokens 128 --rows 16 --held-out 1 ` +
      `--held-out-tokens 192 --epochs 2 --inner 8 --stride 2 --max-parameters 1 ` +
      `--cache ${folder}/${name} --out ${folder}/${name}.out`;
    await runWith(trainCommand, line("whole"));
    const bytes = await Deno.readFile(`${folder}/whole.out`);
    const sizeOf = (file: string) => Deno.statSync(`${folder}/whole/${file}`).size;
    const [held, train, checkpoint] = [
      "held_out.capture",
      "train.capture",
      "checkpoint.safetensors",
    ].map(sizeOf) as [number, number, number];
    const record = (train - 4096) / 3;
    const exists = (name: string) => [...Deno.readDirSync(folder)].some((of) => of.name === name);
    // In the middle of the second window, of the checkpoint, of the predictor.
    const rooms: [number, RegExp][] = [
      [4096 + held + Math.round(1.5 * record), /cannot write .*train\.capture: No space left/],
      [
        held + train + 100,
        /cannot write .*checkpoint\.safetensors: No space left.*goes on.*begins again/,
      ],
      [held + train + checkpoint + 100, /cannot write .*full2\.out: No space left/],
    ];
    for (const [index, [room, message]] of rooms.entries()) {
      const full = line(`full${index}`);
      await withFullDisk(room, async () => {
        await assert.rejects(runWith(trainCommand, full), message);
      });
      assert.ok(!exists(`full${index}.out`) && !exists(`full${index}.out.part`));
      const kept = [...Deno.readDirSync(`${folder}/full${index}`)].map(({ name }) => name);
      assert.ok(!kept.some((name) => name.endsWith(".part")), `${kept}`);
      await runWith(trainCommand, full);
      assert.deepEqual(await Deno.readFile(`${folder}/full${index}.out`), bytes);
    }

    // A window that is damaged, with all after it, is made again.
    const capture = await Deno.readFile(`${folder}/whole/train.capture`);
    capture[4096 + record + 10]! ^= 1;
    await Deno.writeFile(`${folder}/whole/train.capture`, capture);
    await Deno.remove(`${folder}/whole/checkpoint.safetensors`);
    const io = await runWith(trainCommand, line("whole"));
    assert.match(io.err, /note: window 1 of .*train\.capture is damaged: it is made again/);
    assert.deepEqual(await Deno.readFile(`${folder}/whole.out`), bytes);

    // Cut short in the middle of a window, or of what a file begins with.
    for (const [name, size] of [["train", train - 5], ["held_out", 4000]] as const) {
      await Deno.truncate(`${folder}/whole/${name}.capture`, size);
      await Deno.remove(`${folder}/whole/checkpoint.safetensors`);
      await runWith(trainCommand, line("whole"));
      assert.deepEqual(await Deno.readFile(`${folder}/whole.out`), bytes);
      assert.deepEqual([sizeOf("held_out.capture"), sizeOf("train.capture")], [held, train]);
    }

    const state = await Deno.readFile(`${folder}/whole/checkpoint.safetensors`);
    await Deno.writeFile(`${folder}/whole/checkpoint.safetensors`, state.slice(0, -9));
    const bad: [string, RegExp][] = [
      [line("whole"), /checkpoint .* is damaged .*: delete it to begin again/],
      [`${line("whole")} --seed 1`, /was captured for another model, other text or other settings/],
      [`${line("whole")} --svg ${folder}`, /cannot write .*it is a folder/],
    ];
    for (const [of, message] of bad) {
      await assert.rejects(runWith(trainCommand, of), message);
    }
  });
});

Deno.test("train and eval refuse what cannot work, with exit code 2, and say what to do", async () => {
  await withFiles({ "a.txt": TEXT, "short.txt": "Hello.", "bad.json": "{}" }, async (folder) => {
    const text = `--text ${folder}/a.txt --model ${MODEL}`;
    const cases: [AnyCommand, string, RegExp][] = [
      [command, "", /--text is needed/],
      [command, `--text ${folder}/none`, /there is no such file/],
      [command, `${text} --rows 12`, /--rows must be a multiple of 8/],
      [command, `${text} --held-out-tokens 100`, /have 96 tokens.*more than 100 are needed/],
      [command, `${text} --table-tokens 104 --sinks 8`, /have 104 tokens.*more than 104 are/],
      [
        command,
        `${text} --max-parameters 9 --out ${folder}/o --tokens 1024 --rows 256 --held-out-tokens 192 --table-tokens 192 --memory 1MiB`,
        /training takes \d+ MiB at least: allow more with --memory/,
      ],
      [command, `${text} --inner 64`, /--max-parameters allows 1\.20 %/],
      [command, `${text} --max-parameters 9 --out ${folder}/no/out`, /folder does not exist/],
      [
        command,
        `${text} --max-parameters 9 --out ${folder}/o --cache ${folder}/a.txt/x`,
        /--cache: cannot make the folder/,
      ],
      [
        command,
        `--text ${folder}/short.txt --model ${MODEL} --max-parameters 9 --out ${folder}/o`,
        /the text is too short.*--tokens/,
      ],
      [
        command,
        `--text ${folder}/a.txt --model ${TINY}mistral-f32 --max-parameters 9 --out ${folder}/o`,
        /has no tokenizer/,
      ],
      [
        command,
        `--text ${folder}/a.txt --model ${MODEL} --max-parameters 9 --out ${folder}/o --svg ${folder}`,
        /--svg: .*it is a folder/,
      ],
      [
        command,
        `${text} --max-parameters 9 --out ${folder}/o --from ${OTHERS}`,
        /butler\.safetensors was trained for another model/,
      ],
      [
        command,
        `${text} --max-parameters 9 --out ${folder}/o --from ${folder}/bad.json`,
        /the predictor .*bad\.json is damaged/,
      ],
      [evalCommand, "", /which one\? There are ppl, recall/],
      [evalCommand, "pll", /did you mean ppl/],
      [evalCommand, "ppl", /--text is needed/],
      [evalCommand, `ppl ${text} --totals 20`, /--totals must be at least 36/],
      [
        evalCommand,
        `ppl ${text} --totals x`,
        /--totals: wanted whole numbers below 10 million .*, got "x"/,
      ],
      [evalCommand, `ppl ${text} --policies none`, /wanted some of dense, /],
      [evalCommand, `ppl ${text} --text ${folder}/a.txt`, /two files are called a\.txt/],
      [evalCommand, `ppl ${text} --out ${folder}/no/out`, /--out: .*folder does not exist/],
      [evalCommand, `recall ${text} --svg ${folder}`, /--svg: .*it is a folder/],
      [evalCommand, `coref --out ${folder}/a.txt/x`, /--out: cannot write/],
      [evalCommand, `ruler --svg ${folder}/no/x`, /--svg: .*folder does not exist/],
      [evalCommand, `longbench --data ${folder} --out ${folder}/no/x`, /--out: .*folder does/],
      [evalCommand, `ppl --text ${folder}/short.txt --model ${MODEL}`, /has no window of 2048/],
    ];
    for (const [of, line, message] of cases) {
      const io = new FakeIo();
      let got = 0;
      try {
        got = await runCommand(of, line === "" ? [] : line.split(" "), io);
      } catch (error) {
        got = reportError(error, "train", io);
      }
      assert.match(io.err, message, line);
      assert.equal(got, 2, `${line}: ${io.err}`);
    }
  });
});
