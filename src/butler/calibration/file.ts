/**
 * Calibrations on disk: one `.safetensors` file with one tensor, `projection`, and in the metadata
 * which model and what text it was made from. The same calibration always gives the same bytes.
 *
 * @module
 */
import { ModelFileError } from "../../model/errors.ts";
import { ModelFile } from "../../model/model_file.ts";
import { readSafetensors, readSafetensorsMetadata } from "../../model/safetensors.ts";
import { encodeSafetensors } from "../../model/safetensors_writer.ts";
import { CALIBRATION_NAME } from "../../model/side_files.ts";
import { CalibrationError } from "./errors.ts";

/** Dimensions that keys are projected to. */
export const PROJECTED_DIM = 16;

const FORMAT = "tokenbutler-calibration";
const FORMAT_VERSION = "1";
const TENSOR = "projection";

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
  const file = openFile(path);
  try {
    return readFrom(file, path, model);
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error;
    throw damaged(path, error.message, error);
  } finally {
    file.close();
  }
}

/** Where the calibration of a model lies unless told otherwise: beside the file, in the folder. */
export function defaultCalibrationPath(modelPath: string): string {
  return besideModel(modelPath, CALIBRATION_NAME);
}

/** A file beside a model file, or in a model's folder. */
export function besideModel(modelPath: string, name: string): string {
  const path = modelPath.replace(/(?<=.)[/\\]+$/, "");
  if (isFolder(path)) return `${path.replace(/\/$/, "")}/${name}`;
  return path.replace(/[^/\\]*$/, name);
}

/** The default calibration file of a model if it is there, else null. Its content is not looked at. */
export function findCalibration(modelPath: string): string | null {
  const path = defaultCalibrationPath(modelPath);
  try {
    return Deno.statSync(path).isFile ? path : null;
  } catch {
    return null;
  }
}

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

function shapeOf(model: CalibratedModel): number[] {
  return [model.numLayers, model.numKvHeads, model.headDim, PROJECTED_DIM];
}

function openFile(path: string): ModelFile {
  try {
    return ModelFile.open(path);
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    const why = cause instanceof Deno.errors.NotFound
      ? `there is no calibration ${path}: make it with tokenbutler calibrate`
      : `the calibration ${path} cannot be read: ${
        cause instanceof Error ? cause.message : "it is not a regular file"
      }`;
    throw new CalibrationError("not_found", why, { cause: error });
  }
}

function readFrom(file: ModelFile, path: string, model: CalibratedModel): Calibration {
  const metadata = readSafetensorsMetadata(file);
  const wrongFormat = (problem: string) => new CalibrationError("wrong_format", problem);
  if (metadata.get("format") !== FORMAT) {
    throw wrongFormat(`${path} is no calibration: make one with tokenbutler calibrate`);
  }
  const version = metadata.get("format_version") ?? "";
  if (version !== FORMAT_VERSION) {
    throw wrongFormat(
      `${path} has format version ${quoted(version)}, this program reads ${FORMAT_VERSION}: run ` +
        "tokenbutler calibrate again",
    );
  }
  const fingerprint = metadata.get("model_fingerprint") ?? "";
  if (fingerprint !== model.fingerprint) {
    throw new CalibrationError(
      "wrong_model",
      `${path} was made for another model (fingerprint ${quoted(fingerprint)}, this model has ` +
        `${quoted(model.fingerprint)}): run tokenbutler calibrate for this one`,
    );
  }
  const tensor = readSafetensors(file).get(TENSOR);
  const shape = shapeOf(model);
  if (tensor === undefined) throw damaged(path, `it has no tensor ${TENSOR}`);
  if (tensor.type !== "F32" || tensor.shape.join() !== shape.join()) {
    throw damaged(
      path,
      `its ${TENSOR} is ${tensor.typeName.slice(0, 16)} of [${tensor.shape.join(", ")}], not F32 ` +
        `of [${shape.join(", ")}]`,
    );
  }
  const bytes = new Uint8Array(tensor.byteLength);
  file.readFully(bytes, tensor.position);
  const view = new DataView(bytes.buffer);
  const projection = Float32Array.from(
    { length: bytes.length / 4 },
    (_, index) => view.getFloat32(index * 4, true),
  );
  const bad = projection.findIndex((value) => !(Math.abs(value) <= 1));
  if (bad >= 0) {
    throw damaged(path, `entry ${bad} of its ${TENSOR} is ${projection[bad]}, not from -1 to 1`);
  }
  const count = (name: string) => {
    const text = metadata.get(name) ?? "";
    if (!/^\d{1,15}$/.test(text)) throw damaged(path, `its ${name} is ${quoted(text)}, no number`);
    return Number(text);
  };
  const origin = {
    tokens: count("tokens"),
    context: count("context"),
    program: metadata.get("program_version") ?? "",
  };
  return { model, origin, projection };
}

function damaged(path: string, problem: string, cause?: unknown): CalibrationError {
  return new CalibrationError(
    "damaged",
    `the calibration ${path} is damaged: ${problem}. Run tokenbutler calibrate again`,
    cause === undefined ? undefined : { cause },
  );
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 12 ? `${text.slice(0, 12)}...` : text);
}
