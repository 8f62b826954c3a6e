/** Which predictor an engine takes, and what it says where it takes none. */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { EngineOptions } from "../../src/engine/types.ts";
import { runCommand } from "../../src/cli/cli.ts";
import { command as doctor } from "../../src/cli/commands/doctor.ts";
import { PREDICTOR_NAME } from "../../src/model/side_files.ts";
import { assert } from "std-testing";
import { FakeIo } from "../cli/_io.ts";
import { openEngine } from "./_engine.ts";
import { tinyModel } from "./_golden.ts";
import { makeCalibration, makePredictor, offloadedModel, onDevice, textIds } from "./_offload.ts";
import { generate } from "./_requests.ts";
import { DEFAULT_TIERS } from "../../src/engine/types.ts";

const MODEL = await offloadedModel();
const PREDICTOR = await makePredictor();
const OTHERS = await makePredictor((await tinyModel("qwen3-qknorm-f32")).path);
const CALIBRATION = await makeCalibration();

/** A copy of the model in a folder of its own, with a file beside its weights. */
async function withPredictor(
  file: string,
  test: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const { name } of Deno.readDirSync(MODEL)) {
      await Deno.copyFile(`${MODEL}/${name}`, `${folder}/${name}`);
    }
    await Deno.copyFile(file, `${folder}/${PREDICTOR_NAME}`);
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function take(folder: string, options: Partial<EngineOptions> = {}) {
  await using opened = await openEngine(folder, options);
  const { kv, notes } = opened.engine.info;
  return { canPredict: kv.canPredict, notes: notes.join() };
}

Deno.test("the predictor beside a model is found, unless none is wanted", async () => {
  await withPredictor(PREDICTOR, async (folder) => {
    assert.deepEqual(await take(folder), { canPredict: true, notes: "" });
    assert.deepEqual(await take(folder, { predictor: false }), { canPredict: false, notes: "" });
  });
  assert.equal((await take(MODEL)).canPredict, false);
  assert.equal((await take(MODEL, { predictor: PREDICTOR })).canPredict, true);
});

Deno.test("the predictor of another model, or a large one, is refused by name, else left aside", async () => {
  const other = /was trained for another model .*: make one for this with \.\/run train/;
  const large = /parameters, but at most \d+ are allowed: .*--max-parameters/;
  await withPredictor(OTHERS, async (folder) => {
    const { canPredict, notes } = await take(folder);
    assert.equal(canPredict, false);
    assert.match(notes, /^predictor left aside: /);
    assert.match(notes, other);
  });
  await assert.rejects(take(MODEL, { predictor: OTHERS }), {
    name: "PredictorError",
    code: "wrong_model",
    message: other,
  });
  await withPredictor(PREDICTOR, async (folder) => {
    assert.match((await take(folder, { maxParameters: 0.012 })).notes, large);
  });
  const options = { predictor: PREDICTOR, maxParameters: 0.012 };
  await assert.rejects(take(MODEL, options), { code: "too_large", message: large });
});

Deno.test("what does not fit the device runs under tokenbutler, or under loki with a note", async () => {
  const text = textIds(180, 320);
  for (const predictor of [PREDICTOR, false] as const) {
    await using opened = await openEngine(MODEL, {
      contextLength: 256,
      predictor,
      calibration: CALIBRATION,
      kv: { sinks: 8, window: 16, budget: { rows: 24 } },
      tiers: { ...DEFAULT_TIERS, ...onDevice(4) },
    });
    const { kv } = await generate(opened.engine, text, 4);
    assert.equal(kv?.policy, predictor === false ? "loki" : "tokenbutler");
    const said = kv?.notes.join() ?? "";
    if (predictor === false) assert.match(said, /there is no predictor of this model/);
    else assert.equal(said, "");
  }
});

Deno.test("without either file what does not fit is dense, with a note that names calibrate", async () => {
  const text = textIds(180, 320);
  await using opened = await openEngine(MODEL, {
    contextLength: 256,
    predictor: false,
    tiers: { ...DEFAULT_TIERS, ...onDevice(4) },
  });
  const kv: KvRequest = { sinks: 8, window: 16 };
  const below = (await generate(opened.engine, text, 4, { kv })).kv!;
  assert.equal(below.policy, "dense");
  assert.ok(below.bytesPerStep > 0);
  assert.match(below.notes.join(), /every step reads all of it.*\.\/run calibrate/);
  // What fits needs neither.
  const { kv: whole } = await generate(opened.engine, text.slice(0, 100), 4, { kv });
  assert.deepEqual([whole?.policy, whole?.notes], ["dense", []]);
});

Deno.test("the policy follows from the request alone: what fits by itself is parked, not made sparse", async () => {
  await using opened = await openEngine(MODEL, {
    contextLength: 256,
    maxSequences: 3,
    predictor: PREDICTOR,
    calibration: CALIBRATION,
    kv: { sinks: 8, window: 16, budget: { rows: 24 } },
    tiers: { ...DEFAULT_TIERS, ...onDevice(8), prefixCache: false },
  });
  const { engine, parts: { runner } } = opened;
  let parked = 0;
  const park = runner.park.bind(runner);
  runner.park = (slot) => {
    parked++;
    return park(slot);
  };
  // Eight blocks are 256 rows: each fits, no two of them do; the last token of an answer has no row.
  const answers = await Promise.all(
    [0, 1, 2].map((n) => generate(engine, textIds(100, 320, n), 101 + n)),
  );
  assert.deepEqual(answers.map(({ kv }) => kv!.policy), ["dense", "dense", "dense"]);
  assert.ok(parked > 0, "nobody had to give way");
  // Prompt and answer count: the same prompt with a longer answer is another matter.
  await using small = await openEngine(MODEL, {
    contextLength: 256,
    predictor: PREDICTOR,
    kv: { sinks: 8, window: 16, budget: { rows: 24 } },
    tiers: { ...DEFAULT_TIERS, ...onDevice(4) },
  });
  const policyOf = async (maxTokens: number) =>
    (await generate(small.engine, textIds(100, 320), maxTokens)).kv!.policy;
  assert.deepEqual([await policyOf(29), await policyOf(30)], ["dense", "tokenbutler"]);
});

Deno.test("doctor says which predictor there is", async () => {
  const line = async (...args: string[]) => {
    const io = new FakeIo();
    const code = await runCommand(doctor, ["--quick", "--model", MODEL, ...args], io);
    return { code, out: io.out.replace(/\s+/g, " ") };
  };
  const none = await line();
  assert.match(none.out, / predictor none: nothing chooses rows by itself /);
  const loki = await line("--calibration", CALIBRATION);
  assert.match(loki.out, / predictor none: loki stands in /);
  const one = await line("--predictor", PREDICTOR, "--max-parameters", "9", "--kv-device", "50000");
  assert.match(
    one.out,
    / predictor \d+ parameters, [\d.]+ % of the model's; a producer each 2 layers/,
  );
  assert.match(one.out, / sequence \d+ tokens, tokenbutler: /);
  assert.equal(one.code, 0);
  const bad = await line("--predictor", OTHERS);
  assert.match(bad.out, /PROBLEM: .*trained for another model/);
  assert.equal(bad.code, 1);
});
