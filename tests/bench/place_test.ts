/** Both places of `bench latency` with the same repeated rows: what they say must be the same. */
import {
  openDevicePlace,
  openOffloadPlace,
  type Place,
  settingsOf,
} from "../../bench/_latency_place.ts";
import { decodeText } from "../../bench/_latency_turn.ts";
import { captureRows } from "../../bench/_rows.ts";
import { fill, textIds } from "../../bench/_subject.ts";
import { type Calibration, PROJECTED_DIM } from "../../src/butler/calibration/file.ts";
import { writeCalibration } from "../../src/butler/calibration/write.ts";
import type { Settings } from "../../src/cli/flags.ts";
import type { CliIo } from "../../src/cli/io.ts";
import { engineFlags } from "../../src/cli/model_flags.ts";
import { openModel } from "../../src/model/open.ts";
import { LogitReader } from "../golden/_engine.ts";
import { seededRandom } from "../_model_files.ts";
import { assert } from "std-testing";

const MODEL = new URL("../data/tiny/qwen3-qknorm-f32", import.meta.url).pathname;
const ROWS = 200;
const STEPS = 6;
/** Sums in another order, in f32. */
const TOLERANCE = 2e-4;

async function logitsOf(place: Place, policy: "dense" | "loki" | "quest" | "oracle") {
  const { parts } = place.subject;
  const base = { sinks: 4, window: 8, budget: { rows: 36 }, denseLayers: 1 };
  const settings = settingsOf(base, { policy, interval: 2 }, place.subject);
  await place.begin({ numRows: ROWS, maxRows: ROWS + STEPS, settings });
  using reader = await LogitReader.create(parts);
  const logits: Float32Array[] = [];
  for (let step = 0; step < STEPS; step++) {
    await decodeText(place, ROWS + step, 1);
    logits.push(await reader.first());
  }
  return { logits, report: parts.runner.report(0) };
}

Deno.test("repeated rows give the same logits on the device and below it", async (t) => {
  const source = await openModel(MODEL);
  const { config } = source;
  const { numLayers, numKvHeads, headDim } = config;
  const random = seededRandom(5);
  const calibration: Calibration = {
    model: { fingerprint: await source.fingerprint(), numLayers, numKvHeads, headDim },
    origin: { tokens: 1, context: 1, program: "test" },
    projection: Float32Array.from(
      { length: numLayers * numKvHeads * headDim * PROJECTED_DIM },
      () => 2 * random() - 1,
    ),
  };
  source.close();
  const file = await Deno.makeTempFile();
  writeCalibration(file, calibration);
  const fallbacks = Object.entries(engineFlags).map(([name, flag]) => [name, flag.fallback]);
  const settings = {
    ...Object.fromEntries(fallbacks),
    model: MODEL,
    kvType: "f32",
    calibration: file,
  } as Settings<typeof engineFlags>;
  const io = { stderr: () => {}, stderrIsTerminal: false } as unknown as CliIo;
  try {
    // Five blocks a layer, of seven.
    const pool = 5 * numLayers * 32 * 2 * numKvHeads * headDim * 4;
    using device = await openDevicePlace(settings, io, ROWS + STEPS);
    const offload = await openOffloadPlace(settings, io, pool, ROWS + STEPS);
    if (typeof offload === "string") throw new Error(offload);
    using _ = offload;
    await fill(device.subject, 0, textIds(device.subject, 0, 64));
    const rows = await captureRows(device.subject.parts, config, 0, 2);
    const dense = settingsOf({}, { policy: "dense" }, device.subject);
    for (const place of [device, offload]) {
      await place.fill(rows, { numRows: ROWS, maxRows: ROWS + STEPS, settings: dense });
    }
    for (const policy of ["dense", "loki", "quest", "oracle", "dense"] as const) {
      await t.step(policy, async () => {
        const here = await logitsOf(device, policy);
        const below = await logitsOf(offload, policy);
        const scale = Math.max(...here.logits[0]!.map(Math.abs));
        here.logits.forEach((logits, step) => {
          for (const [i, logit] of logits.entries()) {
            const off = Math.abs(logit - below.logits[step]![i]!) / scale;
            assert.ok(off <= TOLERANCE, `step ${step} is off by ${off}`);
          }
        });
        assert.ok(below.report!.bytesPerStep > 0);
        assert.ok((here.report?.bytesPerStep ?? 0) === 0);
      });
    }
  } finally {
    Deno.removeSync(file);
  }
});
