/**
 * Calibrations on disk: one `.safetensors` file with one tensor, `projection`, and in the metadata
 * which model and what text it was made from. The same calibration always gives the same bytes.
 *
 * @module
 */
import { readSafetensors } from "../../model/safetensors.ts";
import { encodeSafetensors } from "../../model/safetensors_writer.ts";
import { CALIBRATION_NAME } from "../../model/side_files.ts";
import {
  besideModel,
  findBesideModel,
  quoted,
  readFloats,
  readSideFile,
  type SideFile,
  type SideFileKind,
} from "../side_file.ts";
import { CalibrationError } from "./errors.ts";

/** Dimensions that keys are projected to. */
export const PROJECTED_DIM = 16;

const FORMAT = "tokenbutler-calibration";
const FORMAT_VERSION = "1";
const TENSOR = "projection";

const KIND: SideFileKind = {
  noun: "calibration",
  done: "made",
  command: "./run calibrate",
  format: FORMAT,
  version: FORMAT_VERSION,
  fail: (code, message, options) => new CalibrationError(code, message, options),
};

/** The model that a calibration belongs to. */
export interface CalibratedModel {
  /** As {@linkcode ModelSource.fingerprint} gives it. */
  readonly fingerprint: string;
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** Where a calibration comes from. */
export interface CalibrationOrigin {
  /** Tokens of text. */
  readonly tokens: number;
  /** Tokens of the longest piece of text: keys had positions below this. */
  readonly context: number;
  /** Version of the program that made it. */
  readonly program: string;
}

/** Principal components of the keys of a model. */
export interface Calibration {
  readonly model: CalibratedModel;
  readonly origin: CalibrationOrigin;
  /**
   * (layers, KV heads, head size, {@linkcode PROJECTED_DIM}), every entry from -1 to 1: a key after
   * RoPE, and a query alike, times this matrix is what scores are made from.
   */
  readonly projection: Float32Array<ArrayBuffer>;
}

/** Bytes of the file of a calibration. */
export function encodeCalibration(calibration: Calibration): Uint8Array<ArrayBuffer> {
  const { model, origin, projection } = calibration;
  return encodeSafetensors(
    {
      format: FORMAT,
      format_version: FORMAT_VERSION,
      model_fingerprint: model.fingerprint,
      tokens: String(origin.tokens),
      context: String(origin.context),
      program_version: origin.program,
    },
    [{ name: TENSOR, shape: shapeOf(model), values: projection }],
  );
}

/**
 * Reads a calibration for a model.
 *
 * @throws {CalibrationError} `not_found`, `damaged`, `wrong_format` or `wrong_model`.
 */
export function readCalibration(path: string, model: CalibratedModel): Calibration {
  return readSideFile(path, KIND, model.fingerprint, (opened) => readFrom(opened, model));
}

/** Where the calibration of a model lies unless told otherwise: beside the file, in the folder. */
export function defaultCalibrationPath(modelPath: string): string {
  return besideModel(modelPath, CALIBRATION_NAME);
}

/** The default calibration file of a model if it is there, else null. Its content is not looked at. */
export function findCalibration(modelPath: string): string | null {
  return findBesideModel(modelPath, CALIBRATION_NAME);
}

function shapeOf(model: CalibratedModel): number[] {
  return [model.numLayers, model.numKvHeads, model.headDim, PROJECTED_DIM];
}

function readFrom(opened: SideFile, model: CalibratedModel): Calibration {
  const { file, metadata, damaged } = opened;
  const tensor = readSafetensors(file).get(TENSOR);
  const projection = readFloats(opened, tensor, TENSOR, shapeOf(model));
  const bad = projection.findIndex((value) => !(Math.abs(value) <= 1));
  if (bad >= 0) {
    throw damaged(`entry ${bad} of its ${TENSOR} is ${projection[bad]}, not from -1 to 1`);
  }
  const count = (name: string) => {
    const text = metadata.get(name) ?? "";
    if (!/^\d{1,15}$/.test(text)) throw damaged(`its ${name} is ${quoted(text)}, no number`);
    return Number(text);
  };
  const origin = {
    tokens: count("tokens"),
    context: count("context"),
    program: metadata.get("program_version") ?? "",
  };
  return { model, origin, projection };
}
