/**
 * Predictors on disk: one `.safetensors` file, with the model's fingerprint, the sizes, how it was
 * trained and what it reached in the metadata. The same predictor always gives the same bytes.
 *
 * @module
 */
import { z } from "zod";
import { readSafetensors } from "../../model/safetensors.ts";
import { encodeSafetensors, type NamedTensor } from "../../model/safetensors_writer.ts";
import { PREDICTOR_NAME } from "../../model/side_files.ts";
import { BudgetTableError, formatBudgetTable, parseBudgetTable } from "../budget_json.ts";
import type { BudgetTable } from "../budget_table.ts";
import {
  besideModel,
  findBesideModel,
  quoted,
  readFloats,
  readSideFile,
  type SideFile,
  type SideFileKind,
} from "../side_file.ts";
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
import { IMPORTANCE_PAIRS, STILL } from "./turns.ts";

const FORMAT = "tokenbutler-predictor";
const FORMAT_VERSION = "1";
/** Name of the tensor that says how queries turn. */
const TURNS = "keys.turns";

const KIND: SideFileKind = {
  noun: "predictor",
  done: "trained",
  command: "./run train",
  format: FORMAT,
  version: FORMAT_VERSION,
  fail: (code, message, options) => new PredictorError(code, message, options),
};

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
  return readSideFile(
    path,
    KIND,
    model.fingerprint,
    (opened) => readFrom(opened, path, model, most),
  );
}

/** Where the predictor of a model lies unless told otherwise: beside the file, in the folder. */
export function defaultPredictorPath(modelPath: string): string {
  return besideModel(modelPath, PREDICTOR_NAME);
}

/** The default predictor of a model if it is there, else null. Its content is not looked at. */
export function findPredictor(modelPath: string): string | null {
  return findBesideModel(modelPath, PREDICTOR_NAME);
}

/** Tensors of a predictor under the names of the file. */
export function tensorsOf({ shape, producers, keys, turns }: Predictor): NamedTensor[] {
  const { numLayers, hiddenSize, numKvHeads, headDim } = shape.model;
  const { inner } = shape;
  return [
    {
      name: "keys.weight",
      shape: [numLayers, numKvHeads, headDim, IMPORTANCE_DIM],
      values: keys,
    },
    {
      name: TURNS,
      shape: [numLayers, numKvHeads, IMPORTANCE_PAIRS],
      values: Float32Array.from(turns),
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

function readFrom(
  opened: SideFile,
  path: string,
  model: PredictedModel,
  most: number,
): StoredPredictor {
  const { file, metadata, damaged } = opened;
  const size = (name: string, top: number) => {
    const text = metadata.get(name) ?? "";
    if (!/^\d{1,6}$/.test(text) || Number(text) < 1 || Number(text) > top) {
      throw damaged(`its ${name} is ${quoted(text)}, no number from 1 to ${top}`);
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
    throw damaged(`it has ${file.size} bytes, its sizes need ${count * 4}`);
  }
  const tensors = readSafetensors(file);
  const predictor = emptyPredictor(shape);
  for (const { name, shape: wanted, values } of tensorsOf(predictor)) {
    // Files of before queries could turn have none.
    if (name === TURNS && !tensors.has(name)) continue;
    values.set(readFloats(opened, tensors.get(name), name, wanted));
    if (name === TURNS) predictor.turns.set(checkedTurns(values, model, damaged));
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) throw damaged(`entry ${bad} of its ${name} is ${values[bad]}`);
  }
  return { predictor, notes: notesOf(opened, model) };
}

/** Turns, each `STILL` or a pair that a head can have. */
function checkedTurns(
  values: Float32Array,
  { headDim }: PredictedModel,
  damaged: SideFile["damaged"],
): Float32Array {
  const bad = values.findIndex((turn) =>
    !Number.isInteger(turn) || turn < STILL || turn >= headDim / 2
  );
  if (bad < 0) return values;
  throw damaged(`entry ${bad} of its ${TURNS} is ${values[bad]}, no pair of a head`);
}

function notesOf({ metadata, damaged }: SideFile, model: PredictedModel): PredictorNotes {
  const parse = (name: string): unknown => {
    const text = metadata.get(name);
    if (text === undefined) return null;
    try {
      return z.json().parse(JSON.parse(text));
    } catch (error) {
      throw damaged(`its ${name} is no JSON`, error);
    }
  };
  const budgets = parse("budgets");
  return {
    training: parse("training"),
    results: parse("results"),
    budgets: budgets === null ? null : budgetsOf(budgets, model, damaged),
    program: metadata.get("program_version") ?? "",
  };
}

function budgetsOf(
  json: unknown,
  model: PredictedModel,
  damaged: SideFile["damaged"],
): BudgetTable {
  try {
    return parseBudgetTable(json, model);
  } catch (error) {
    if (!(error instanceof BudgetTableError)) throw error;
    throw damaged(error.message, error);
  }
}
