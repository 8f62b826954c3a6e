/** Runs texts through a model and works out the principal components of its keys. @module */
import type { Runner } from "../../engine/runner_types.ts";
import type { KvCache } from "../../kv/types.ts";
import { CalibrationError } from "./errors.ts";
import { type CalibratedModel, type Calibration, PROJECTED_DIM } from "./file.ts";
import { KeyMoments } from "./moments.ts";
import { principalComponents } from "./principal.ts";

/** The one slot that is used. */
const SLOT = 0;

/** What a calibration works with. */
export interface CalibrationRun {
  readonly model: CalibratedModel;
  readonly runner: Pick<Runner, "prefill">;
  readonly kv: Pick<KvCache, "usage" | "reserve" | "release">;
  /** As {@linkcode readKeys}, for a sequence in slot `slot`: (KV heads, count, head size). */
  readKeys(slot: number, layer: number, first: number, count: number): Promise<Float32Array>;
  /** Rows that are read at once. */
  readonly rowsPerRead: number;
  /** Token ids of sequences of their own; none longer than the engine's context. */
  readonly windows: readonly (readonly number[])[];
  /** Tokens of a prefill chunk. */
  readonly chunk: number;
  /** Version of the program, for the file. */
  readonly program: string;
  /** Told how many tokens are done. */
  readonly onProgress?: (done: number) => void;
}

/** A calibration and how much of the keys it holds. */
export interface CalibrationResult {
  readonly calibration: Calibration;
  /** Part of the second moment of the keys in the kept dimensions: (layers, KV heads) in one list. */
  readonly shares: readonly number[];
}

/**
 * Calibrates. Nothing else may use the engine meanwhile.
 *
 * @throws {CalibrationError} `bad_keys` if there is no text or the model gives no finite keys.
 */
export async function calibrate(run: CalibrationRun): Promise<CalibrationResult> {
  const { model, windows } = run;
  const heads = model.numLayers * model.numKvHeads;
  const moments = Array.from({ length: heads }, () => new KeyMoments(model.headDim));
  let done = 0;
  for (const ids of windows) {
    run.kv.reserve(SLOT, ids.length);
    try {
      for (let start = 0; start < ids.length; start += run.chunk) {
        const tokens = ids.slice(start, start + run.chunk);
        await run.runner.prefill({ slot: SLOT, start, tokens, sample: null, scoring: null });
        done += tokens.length;
        run.onProgress?.(done);
      }
      await addKeys(run, moments, ids.length);
    } finally {
      run.kv.release(SLOT);
    }
  }
  if (done === 0) throw new CalibrationError("bad_keys", "there is no text to calibrate from");
  const size = model.headDim * PROJECTED_DIM;
  const projection = new Float32Array(heads * size);
  const shares = moments.map((of, index) => {
    const found = principalComponents(of.mean(), model.headDim, PROJECTED_DIM);
    projection.set(found.components, index * size);
    return found.share;
  });
  const context = Math.max(...windows.map((ids) => ids.length));
  const origin = { tokens: done, context, program: run.program };
  return { calibration: { model, origin, projection }, shares };
}

async function addKeys(
  run: CalibrationRun,
  moments: readonly KeyMoments[],
  length: number,
): Promise<void> {
  const { numLayers, numKvHeads, headDim } = run.model;
  for (let layer = 0; layer < numLayers; layer++) {
    for (let first = 0; first < length; first += run.rowsPerRead) {
      const count = Math.min(run.rowsPerRead, length - first);
      const keys = await run.readKeys(SLOT, layer, first, count);
      for (let head = 0; head < numKvHeads; head++) {
        const start = head * count * headDim;
        moments[layer * numKvHeads + head]!.add(keys.subarray(start, start + count * headDim));
      }
    }
  }
}
