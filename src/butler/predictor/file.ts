/**
 * Predictors on disk: one `.safetensors` file, with the model's fingerprint, the sizes, how it was
 * trained and what it reached in the metadata. The same predictor always gives the same bytes.
 *
 * @module
 */
import { z } from "zod";
import { ModelFileError } from "../../model/errors.ts";
import { ModelFile } from "../../model/model_file.ts";
import { readSafetensors, readSafetensorsMetadata } from "../../model/safetensors.ts";
import { encodeSafetensors, type NamedTensor } from "../../model/safetensors_writer.ts";
import { PREDICTOR_NAME } from "../../model/side_files.ts";
import type { StoredTensor } from "../../model/tensors.ts";
import { BudgetTableError, formatBudgetTable, parseBudgetTable } from "../budget_json.ts";
import type { BudgetTable } from "../budget_table.ts";
import { besideModel } from "../calibration/file.ts";
import { PredictorError } from "./errors.ts";
import { emptyPredictor, type Predictor } from "./predictor.ts";
import {
  IMPORTANCE_DIM,
  parameterCount,
  type PredictedModel,
  type PredictorShape,
  producersOf,
  queryRows,
} from "./shape.ts";

const FORMAT = "tokenbutler-predictor";
const FORMAT_VERSION = "1";

/** What a predictor's file says beside its weights. */
export interface PredictorNotes {
  /** Settings of the training; free form, for people. */
  readonly training: unknown;
  /** What was measured; free form, for people. */
  readonly results: unknown;
  /** Budgets for each layer and KV head; null where they were not calibrated. */
  readonly budgets: BudgetTable | null;
  /** Version of the program that made it. */
  readonly program: string;
}

/** What is in a file. */
export interface StoredPredictor {
  readonly predictor: Predictor;
  readonly notes: PredictorNotes;
}

/** Bytes of the file of a predictor. */
export function encodePredictor({ predictor, notes }: StoredPredictor): Uint8Array<ArrayBuffer> {
  const { shape } = predictor;
  return encodeSafetensors(
    {
      format: FORMAT,
      format_version: FORMAT_VERSION,
      model_fingerprint: shape.model.fingerprint,
      stride: String(shape.stride),
      inner: String(shape.inner),
      training: JSON.stringify(notes.training),
      results: JSON.stringify(notes.results),
      budgets: JSON.stringify(notes.budgets === null ? null : formatBudgetTable(notes.budgets)),
      program_version: notes.program,
    },
    tensorsOf(predictor),
  );
}

/**
 * Reads a predictor for a model.
 *
 * @param most Parameters that it may have.
 * @throws {PredictorError} `not_found`, `damaged`, `wrong_format`, `wrong_model` or `too_large`.
 */
export function readPredictor(
  path: string,
  model: PredictedModel,
  most = Infinity,
): StoredPredictor {
  const file = openFile(path);
  try {
    return readFrom(file, path, model, most);
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error;
    throw damaged(path, error.message, error);
  } finally {
    file.close();
  }
}

/** Where the predictor of a model lies unless told otherwise: beside the file, in the folder. */
export function defaultPredictorPath(modelPath: string): string {
  return besideModel(modelPath, PREDICTOR_NAME);
}

/** The default predictor of a model if it is there, else null. Its content is not looked at. */
export function findPredictor(modelPath: string): string | null {
  const path = defaultPredictorPath(modelPath);
  try {
    return Deno.statSync(path).isFile ? path : null;
  } catch {
    return null;
  }
}

/** Tensors of a predictor under the names of the file. */
export function tensorsOf({ shape, producers, keys }: Predictor): NamedTensor[] {
  const { numLayers, hiddenSize, numKvHeads, headDim } = shape.model;
  const { inner } = shape;
  return [
    {
      name: "keys.weight",
      shape: [numLayers, numKvHeads, headDim, IMPORTANCE_DIM],
      values: keys,
    },
    ...producersOf(shape).flatMap((place): NamedTensor[] => {
      const { normWeight, normBias, up, down } = producers[place.index]!;
      const name = (part: string) => `producers.${place.index}.${part}`;
      return [
        { name: name("norm.weight"), shape: [hiddenSize], values: normWeight },
        { name: name("norm.bias"), shape: [hiddenSize], values: normBias },
        { name: name("up.weight"), shape: [inner, hiddenSize], values: up },
        { name: name("down.weight"), shape: [queryRows(shape, place), inner], values: down },
      ];
    }),
  ];
}

function openFile(path: string): ModelFile {
  try {
    return ModelFile.open(path);
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    const why = cause instanceof Deno.errors.NotFound
      ? `there is no predictor ${path}: make it with tokenbutler train`
      : `the predictor ${path} cannot be read: ${
        cause instanceof Error ? cause.message : "it is not a regular file"
      }`;
    throw new PredictorError("not_found", why, { cause: error });
  }
}

function readFrom(
  file: ModelFile,
  path: string,
  model: PredictedModel,
  most: number,
): StoredPredictor {
  const metadata = readSafetensorsMetadata(file);
  const wrongFormat = (problem: string) => new PredictorError("wrong_format", problem);
  if (metadata.get("format") !== FORMAT) {
    throw wrongFormat(`${path} is no predictor: make one with tokenbutler train`);
  }
  const version = metadata.get("format_version") ?? "";
  if (version !== FORMAT_VERSION) {
    throw wrongFormat(
      `${path} has format version ${quoted(version)}, this program reads ${FORMAT_VERSION}: run ` +
        "tokenbutler train again",
    );
  }
  const fingerprint = metadata.get("model_fingerprint") ?? "";
  if (fingerprint !== model.fingerprint) {
    throw new PredictorError(
      "wrong_model",
      `${path} was trained for another model (fingerprint ${quoted(fingerprint)}, this model has ` +
        `${quoted(model.fingerprint)}): run tokenbutler train for this one`,
    );
  }
  const size = (name: string, top: number) => {
    const text = metadata.get(name) ?? "";
    if (!/^\d{1,6}$/.test(text) || Number(text) < 1 || Number(text) > top) {
      throw damaged(path, `its ${name} is ${quoted(text)}, no number from 1 to ${top}`);
    }
    return Number(text);
  };
  const shape: PredictorShape = {
    model,
    stride: size("stride", 1024),
    inner: size("inner", 65_536),
  };
  const count = parameterCount(shape);
  if (count > most) {
    throw new PredictorError(
      "too_large",
      `${path} has ${count} parameters, but at most ${Math.floor(most)} are allowed: train one ` +
        "with a smaller --inner, or allow more with --max-parameters",
    );
  }
  if (count * 4 > file.size) {
    throw damaged(path, `it has ${file.size} bytes, its sizes need ${count * 4}`);
  }
  const tensors = readSafetensors(file);
  const predictor = emptyPredictor(shape);
  for (const { name, shape: wanted, values } of tensorsOf(predictor)) {
    readInto(file, path, tensors.get(name), name, wanted, values);
  }
  return { predictor, notes: notesOf(path, metadata, model) };
}

function readInto(
  file: ModelFile,
  path: string,
  tensor: StoredTensor | undefined,
  name: string,
  shape: readonly number[],
  values: Float32Array,
): void {
  if (tensor === undefined) throw damaged(path, `it has no tensor ${name}`);
  if (tensor.type !== "F32" || tensor.shape.join() !== shape.join()) {
    throw damaged(
      path,
      `its ${name} is ${tensor.typeName.slice(0, 16)} of [${tensor.shape.join(", ")}], not F32 ` +
        `of [${shape.join(", ")}]`,
    );
  }
  const bytes = new Uint8Array(tensor.byteLength);
  file.readFully(bytes, tensor.position);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < values.length; i++) values[i] = view.getFloat32(i * 4, true);
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw damaged(path, `entry ${bad} of its ${name} is ${values[bad]}`);
}

function notesOf(
  path: string,
  metadata: ReadonlyMap<string, string>,
  model: PredictedModel,
): PredictorNotes {
  const parse = (name: string): unknown => {
    const text = metadata.get(name);
    if (text === undefined) return null;
    try {
      return z.json().parse(JSON.parse(text));
    } catch (error) {
      throw damaged(path, `its ${name} is no JSON`, error);
    }
  };
  const budgets = parse("budgets");
  return {
    training: parse("training"),
    results: parse("results"),
    budgets: budgets === null ? null : budgetsOf(path, budgets, model),
    program: metadata.get("program_version") ?? "",
  };
}

function budgetsOf(path: string, json: unknown, model: PredictedModel): BudgetTable {
  try {
    return parseBudgetTable(json, model);
  } catch (error) {
    if (!(error instanceof BudgetTableError)) throw error;
    throw damaged(path, error.message, error);
  }
}

function damaged(path: string, problem: string, cause?: unknown): PredictorError {
  return new PredictorError(
    "damaged",
    `the predictor ${path} is damaged: ${problem}. Run tokenbutler train again`,
    cause === undefined ? undefined : { cause },
  );
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 12 ? `${text.slice(0, 12)}...` : text);
}
