import { parameterCount, producersOf } from "../../src/butler/predictor/shape.ts";
import { encodePredictor } from "../../src/butler/predictor/file.ts";
import { openKernels } from "../../src/engine/create.ts";
import { selectPlan } from "../../src/gpu/plan.ts";
import { capture, type CaptureWindow } from "../../src/train/capture.ts";
import { CaptureFile } from "../../src/train/capture_file.ts";
import { Draws } from "../../src/train/draws.ts";
import { TrainError } from "../../src/train/errors.ts";
import { MEASURED_BUDGET, TRAIN_DEFAULTS, type TrainSettings } from "../../src/train/settings.ts";
import { train, type TrainProgress, type TrainRun } from "../../src/train/train.ts";
import { GENERATED, generatedModel } from "../golden/_generated.ts";
import { openEngine } from "../golden/_engine.ts";
import { assert } from "std-testing";

const SETTINGS: TrainSettings = {
  ...TRAIN_DEFAULTS,
  inner: 32,
  tokens: 512,
  rows: 64,
  windows: 4,
  heldOut: 2,
  heldOutTokens: 512,
  heldOutRows: 32,
  epochs: 6,
  rate: 2e-3,
  seed: 11,
};

/** RoPE of the generated model. */
const ROPE = {
  dimensions: GENERATED.headDim,
  pairing: "half" as const,
  inverseFrequencies: Array.from(
    { length: GENERATED.headDim / 2 },
    (_, i) => 100_000 ** (-2 * i / GENERATED.headDim),
  ),
};

/** Windows of random tokens, some of which come again and again. */
function windows(stream: number, count: number, rows: number, first: number): CaptureWindow[] {
  const draws = new Draws(SETTINGS.seed, stream);
  return Array.from({ length: count }, () => ({
    ids: Array.from({ length: SETTINGS.tokens }, () => draws.below(GENERATED.vocab)),
    positions: draws.spread(first, SETTINGS.tokens, rows),
  }));
}

const TRAIN_WINDOWS = windows(1, SETTINGS.windows, SETTINGS.rows, 100);
const HELD_OUT_WINDOWS = windows(2, SETTINGS.heldOut, SETTINGS.heldOutRows, 256);

/** Captures both kinds of windows of a generated model into a folder. */
async function captureGenerated(folder: string) {
  const model = await generatedModel();
  try {
    await using opened = await openEngine(model, {
      kvType: "f32",
      contextLength: SETTINGS.tokens + 1,
      maxSequences: 1,
      prefillChunk: 128,
    });
    const { parts } = opened;
    const shape = {
      model: {
        fingerprint: parts.info.model.fingerprint,
        numLayers: GENERATED.layers,
        hiddenSize: GENERATED.hidden,
        numHeads: GENERATED.heads,
        numKvHeads: GENERATED.kvHeads,
        headDim: GENERATED.headDim,
      },
      stride: SETTINGS.stride,
    };
    const make = async (name: string, of: readonly CaptureWindow[]) => {
      const origin = {
        shape: { ...shape, tokens: SETTINGS.tokens, rows: of[0]!.positions.length },
        content: name,
      };
      // Cut short after the first window, as a run that was ended would leave it.
      {
        using file = CaptureFile.open(`${folder}/${name}`, origin);
        await capture({ parts, file, windows: of.slice(0, 1), chunk: 128 });
        file.file.truncateSync(file.file.statSync().size + 1000);
      }
      const file = CaptureFile.open(`${folder}/${name}`, origin);
      assert.equal(file.windows, 1);
      await capture({ parts, file, windows: of, chunk: 128 });
      assert.equal(file.windows, of.length);
      assert.ok(of.every((_, index) => file.check(index)));
      return file;
    };
    return {
      shape: { ...shape, inner: SETTINGS.inner },
      train: await make("train", TRAIN_WINDOWS),
      heldOut: await make("held_out", HELD_OUT_WINDOWS),
    };
  } finally {
    await Deno.remove(model, { recursive: true });
  }
}

Deno.test("training on a generated model", async (t) => {
  const folder = await Deno.makeTempDir({ prefix: "tokenbutler_train_" });
  const captured = await captureGenerated(folder);
  const kernels = await openKernels({});
  const run = (checkpoint: string, more: Partial<TrainRun> = {}): TrainRun => ({
    ...captured,
    table: captured.heldOut,
    from: null,
    kernels,
    plan: selectPlan(kernels.caps, {}),
    rope: ROPE,
    settings: SETTINGS,
    checkpoint: `${folder}/${checkpoint}`,
    memory: 2 ** 30,
    ...more,
  });
  const bytesOf = (result: Awaited<ReturnType<typeof train>>) =>
    encodePredictor({
      predictor: result!.predictor,
      notes: { training: null, results: result!.heads, budgets: null, program: "" },
    });
  const first = await train(run("first"));
  const { predictor, heads, curves } = first!;

  await t.step("finds half as many again of the true top rows as chance or recency", () => {
    assert.equal(heads.length, (GENERATED.layers - 1) * GENERATED.kvHeads);
    const recall = heads.reduce((sum, head) => sum + head.recall, 0) / heads.length;
    const candidates = HELD_OUT_WINDOWS.flatMap(({ positions }) =>
      positions.map((position) => position + 1 - SETTINGS.sinks - SETTINGS.window)
    );
    const chance = candidates.reduce((sum, count) => sum + MEASURED_BUDGET / count, 0) /
      candidates.length;
    const recent = heads.reduce((sum, head) => sum + head.recentRecall, 0) / heads.length;
    assert.ok(recall >= 1.5 * chance, `${recall}, by chance ${chance}`);
    assert.ok(recall >= 1.5 * recent, `${recall}, the most recent ${recent}`);
    for (const { losses, recalls } of curves) {
      assert.equal(losses.length, SETTINGS.epochs);
      assert.ok(losses.at(-1)! < losses[0]!, `${losses}`);
      assert.ok(recalls.at(-1)! >= recalls[0]! - 0.02, `${recalls}`);
    }
    for (const { mass, bestMass, base, added } of heads) {
      assert.ok(mass <= bestMass + 1e-6 && bestMass <= 1 + 1e-6 && base < mass);
      assert.ok(added.every((value, i) => i === 0 || value >= added[i - 1]!));
    }
  });

  await t.step(
    "is repeatable bit for bit, also where windows have no room on the device",
    async () => {
      const again = await train(run("again", { memory: 9 * 2 ** 20 }));
      assert.deepEqual(bytesOf(again), bytesOf(first));
    },
  );

  await t.step("goes on after it was ended, to the same result", async () => {
    for (let i = 0, step = 0;; i++) {
      const abort = new AbortController();
      const until = step + 17;
      const result = await train(run("ended", {
        signal: abort.signal,
        onProgress: () => {
          if (++step === until) abort.abort();
        },
      }));
      if (result === null) {
        assert.ok(i < 20);
        continue;
      }
      assert.ok(i > 1, "it was not ended");
      assert.deepEqual(bytesOf(result), bytesOf(first));
      return;
    }
  });

  await t.step(
    "goes on after it was killed, from what lay on the disk, to the same result",
    async () => {
      let step = 0;
      const killed = train(run("killed", {
        onProgress: ({ producer, recall }) => {
          // In the middle of an epoch of the second producer: what was learnt of it is lost.
          if (producer === 1 && recall === null && ++step === 6) throw new Error("killed");
        },
      }));
      await assert.rejects(killed, /killed/);
      const producers: number[] = [];
      const onProgress = ({ producer }: TrainProgress) => void producers.push(producer);
      const result = await train(run("killed", { onProgress }));
      assert.deepEqual([...new Set(producers)], [1]);
      assert.deepEqual(bytesOf(result), bytesOf(first));
    },
  );

  await t.step(
    "refuses another training's checkpoint, a damaged one, too little memory",
    async () => {
      const refused = async (code: string, more: Partial<TrainRun>) =>
        await assert.rejects(train(run("first", more)), (error) => {
          assert.ok(error instanceof TrainError, String(error));
          assert.equal(error.code, code, error.message);
          return true;
        });
      await refused("wrong_run", { settings: { ...SETTINGS, seed: 12 } });
      await refused("no_room", { memory: 2 ** 16, checkpoint: `${folder}/none` });
      const bytes = await Deno.readFile(`${folder}/first`);
      await Deno.writeFile(`${folder}/cut`, bytes.subarray(0, bytes.length - 100));
      await refused("damaged", { checkpoint: `${folder}/cut` });
      await refused("not_writable", {
        checkpoint: `${folder}/no/such/folder`,
        settings: { ...SETTINGS, epochs: 0 },
      });
    },
  );

  await t.step("goes on from a predictor; without epochs it stays as it is", async () => {
    const from = { predictor, digest: "first" };
    const settings = { ...SETTINGS, epochs: 0 };
    const same = await train(run("from", { from, settings, table: captured.train }));
    assert.deepEqual(bytesOf(same), bytesOf(first));
    assert.notDeepEqual(same!.tableHeads, same!.heads);
    assert.deepEqual(first!.tableHeads, heads);
    const more = await train(run("more", { from, settings: { ...SETTINGS, epochs: 1 } }));
    assert.notDeepEqual(more!.predictor, predictor);
    assert.deepEqual(
      more!.curves.map(({ recalls }) => recalls[0]),
      curves.map(({ recalls }) => recalls.at(-1)),
    );
  });

  await t.step("has the parameters that its shape says", () => {
    assert.equal(producersOf(captured.shape).length, predictor.producers.length);
    const count = predictor.producers.reduce(
      (sum, { up, down, normBias, normWeight }) =>
        sum + up.length + down.length + normBias.length + normWeight.length,
      predictor.keys.length,
    );
    assert.equal(count, parameterCount(captured.shape));
  });

  await t.step("tells a damaged window, and another capture's file", () => {
    const { train: file } = captured;
    const { origin } = file;
    file.file.seekSync(5000, Deno.SeekMode.Start);
    file.file.writeSync(Uint8Array.of(1, 2, 3));
    assert.ok(!file.check(0) && file.check(1));
    const other = { ...origin, content: "other" };
    assert.throws(() => CaptureFile.open(file.path, other), /another model, other text/);
    assert.throws(() => CaptureFile.open(`${folder}/first`, origin), /no capture/);
    assert.throws(() => CaptureFile.open(`${folder}/no/such`, origin), /cannot write/);
  });

  captured.train[Symbol.dispose]();
  captured.heldOut[Symbol.dispose]();
  kernels.device.destroy();
  await Deno.remove(folder, { recursive: true });
});
