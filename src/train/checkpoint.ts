/** Where a training stands, on disk: written whole or not at all. @module */
import { z } from "zod";
import { ModelFileError } from "../model/errors.ts";
import { ModelFile } from "../model/model_file.ts";
import { readSafetensors, readSafetensorsMetadata } from "../model/safetensors.ts";
import { encodeSafetensors, type NamedTensor } from "../model/safetensors_writer.ts";
import { writeWhole } from "../whole_file.ts";
import { TrainError } from "./errors.ts";

const FORMAT = "tokenbutler-training-2";

/** Losses and recall of a producer, epoch by epoch; the first entry is before training. */
export interface ProducerCurve {
  /** (epochs) mean loss of the windows as they were seen. */
  readonly losses: readonly number[];
  /** (epochs + 1) recall of the true top-B on held-out windows. */
  readonly recalls: readonly number[];
}

/** A producer that is finished. */
export interface DoneProducer {
  /** Trained values, flat. */
  readonly values: Float32Array<ArrayBuffer>;
  /** As `Turning` has them. */
  readonly turns: Int32Array<ArrayBuffer>;
}

/** State of the producer that is being trained. */
export interface RunningProducer extends DoneProducer {
  readonly moments: Float32Array<ArrayBuffer>;
  readonly steps: number;
  /** Epochs that are over. */
  readonly epochs: number;
  readonly curve: ProducerCurve;
}

/** Everything that a training goes on with. */
export interface Checkpoint {
  readonly done: readonly DoneProducer[];
  readonly curves: readonly ProducerCurve[];
  readonly running: RunningProducer | null;
}

/** No producer has been trained. */
export const EMPTY_CHECKPOINT: Checkpoint = { done: [], curves: [], running: null };

const curveSchema = z.object({ losses: z.array(z.number()), recalls: z.array(z.number()) });
const stateSchema = z.object({
  format: z.literal(FORMAT),
  /** Of the producers that are finished. */
  turns: z.array(z.array(z.int())),
  curves: z.array(curveSchema),
  running: z.object({
    turns: z.array(z.int()),
    steps: z.int().min(0),
    epochs: z.int().min(0),
    curve: curveSchema,
  }).nullable(),
});

/**
 * Writes a checkpoint; what was there before stays until the new one is complete.
 *
 * @param run Names the training: model, text and settings.
 * @throws {TrainError} `not_writable`.
 */
export function writeCheckpoint(path: string, run: string, checkpoint: Checkpoint): void {
  const { done, curves, running } = checkpoint;
  const flat = (name: string, values: Float32Array): NamedTensor => ({
    name,
    shape: [values.length],
    values,
  });
  const state = {
    format: FORMAT,
    turns: done.map(({ turns }) => [...turns]),
    curves,
    running: running &&
      {
        turns: [...running.turns],
        steps: running.steps,
        epochs: running.epochs,
        curve: running.curve,
      },
  };
  const bytes = encodeSafetensors({ run, state: JSON.stringify(state) }, [
    ...done.map(({ values }, index) => flat(`done.${index}`, values)),
    ...(running === null
      ? []
      : [flat("running.values", running.values), flat("running.moments", running.moments)]),
  ]);
  try {
    writeWhole(path, bytes);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TrainError(
      "not_writable",
      `cannot write ${path}: ${why}. Make room, and the same command goes on from where it ` +
        "was; with another folder (--cache) it begins again",
      { cause: error },
    );
  }
}

/**
 * Reads where a training stands.
 *
 * @returns The empty checkpoint if there is none.
 * @throws {TrainError} `wrong_run` if it is of another training, `damaged`.
 */
export function readCheckpoint(path: string, run: string): Checkpoint {
  let file: ModelFile;
  try {
    Deno.statSync(path);
  } catch {
    return EMPTY_CHECKPOINT;
  }
  try {
    file = ModelFile.open(path);
  } catch (error) {
    throw damaged(path, error);
  }
  try {
    const metadata = readSafetensorsMetadata(file);
    const state = stateSchema.parse(JSON.parse(metadata.get("state") ?? "null"));
    if (metadata.get("run") !== run) {
      throw new TrainError(
        "wrong_run",
        `${path} is of a training with another model, other text or other settings: delete it, or ` +
          "name another folder with --cache",
      );
    }
    const tensors = readSafetensors(file);
    const read = (name: string) => {
      const tensor = tensors.get(name);
      if (tensor?.type !== "F32") throw new Error(`it has no tensor ${name}`);
      const bytes = new Uint8Array(tensor.byteLength);
      file.readFully(bytes, tensor.position);
      return new Float32Array(bytes.buffer);
    };
    return {
      done: state.turns.map((turns, index) => ({
        values: read(`done.${index}`),
        turns: Int32Array.from(turns),
      })),
      curves: state.curves,
      running: state.running && {
        ...state.running,
        turns: Int32Array.from(state.running.turns),
        values: read("running.values"),
        moments: read("running.moments"),
      },
    };
  } catch (error) {
    if (error instanceof TrainError) throw error;
    throw damaged(path, error);
  } finally {
    file.close();
  }
}

function damaged(path: string, cause: unknown): TrainError {
  const why = cause instanceof ModelFileError || cause instanceof Error
    ? cause.message
    : "unreadable";
  return new TrainError(
    "damaged",
    `the checkpoint ${path} is damaged (${why.slice(0, 200)}): delete it to begin again`,
    { cause },
  );
}
