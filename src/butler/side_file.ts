/**
 * Files that lie beside a model and belong to it: one `.safetensors` with the model's fingerprint in
 * its metadata. What reading any of them has in common; each kind says what it holds and how it fails.
 *
 * @module
 */
import { ModelFileError } from "../model/errors.ts";
import { ModelFile } from "../model/model_file.ts";
import { beginsAsSafetensors, readSafetensorsMetadata } from "../model/safetensors.ts";
import type { StoredTensor } from "../model/tensors.ts";

/** Why such a file was refused. */
export type SideFileErrorCode = "not_found" | "damaged" | "wrong_format" | "wrong_model";

/** One kind of file. */
export interface SideFileKind {
  /** As messages call it: `calibration`. */
  readonly noun: string;
  /** What was done for a model: `made`. */
  readonly done: string;
  /** What one types to make one. */
  readonly command: string;
  /** Its metadata says these. */
  readonly format: string;
  readonly version: string;
  /** Its own error. */
  fail(code: SideFileErrorCode, message: string, options?: ErrorOptions): Error;
}

/** A file that was opened for its model. */
export interface SideFile {
  readonly file: ModelFile;
  readonly metadata: ReadonlyMap<string, string>;
  /** The error for content that cannot be; `problem` goes on from "it is damaged:". */
  damaged(problem: string, cause?: unknown): Error;
}

/**
 * Opens a file for a model, reads it, closes it.
 *
 * @throws The kind's own error, also for whatever is wrong with the format itself.
 */
export function readSideFile<T>(
  path: string,
  kind: SideFileKind,
  fingerprint: string,
  read: (opened: SideFile) => T,
): T {
  const damaged = (problem: string, cause?: unknown) =>
    kind.fail(
      "damaged",
      `the ${kind.noun} ${path} is damaged: ${problem}. Make it again with ${kind.command}`,
      cause === undefined ? undefined : { cause },
    );
  const file = openFile(path, kind);
  try {
    if (!beginsAsSafetensors(file)) {
      throw kind.fail(
        "wrong_format",
        `${path} is no ${kind.noun}: it does not begin as one does. Name the file that ` +
          `${kind.command} made`,
      );
    }
    const metadata = readSafetensorsMetadata(file);
    checkMetadata(path, kind, metadata, fingerprint);
    return read({ file, metadata, damaged });
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error;
    throw damaged(error.message, error);
  } finally {
    file.close();
  }
}

/**
 * Reads a tensor of f32.
 *
 * @throws The kind's own error if it is not there, or is another one.
 */
export function readFloats(
  { file, damaged }: SideFile,
  tensor: StoredTensor | undefined,
  name: string,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  if (tensor === undefined) throw damaged(`it has no tensor ${name}`);
  if (tensor.type !== "F32" || tensor.shape.join() !== shape.join()) {
    throw damaged(
      `its ${name} is ${tensor.typeName.slice(0, 16)} of [${
        tensor.shape.join(", ")
      }], not F32 of ` +
        `[${shape.join(", ")}]`,
    );
  }
  const bytes = new Uint8Array(tensor.byteLength);
  file.readFully(bytes, tensor.position);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(i * 4, true));
}

/** A file beside a model file, or in a model's folder. */
export function besideModel(modelPath: string, name: string): string {
  const path = modelPath.replace(/(?<=.)[/\\]+$/, "");
  if (statOf(path)?.isDirectory === true) return `${path.replace(/\/$/, "")}/${name}`;
  return path.replace(/[^/\\]*$/, name);
}

/** The same if it is there, else null. Its content is not looked at. */
export function findBesideModel(modelPath: string, name: string): string | null {
  const path = besideModel(modelPath, name);
  return statOf(path)?.isFile === true ? path : null;
}

/** Text of a file as messages show it. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 12 ? `${text.slice(0, 12)}...` : text);
}

function statOf(path: string): Deno.FileInfo | null {
  try {
    return Deno.statSync(path);
  } catch {
    return null;
  }
}

function openFile(path: string, kind: SideFileKind): ModelFile {
  try {
    return ModelFile.open(path);
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    const why = cause instanceof Deno.errors.NotFound
      ? `there is no ${kind.noun} ${path}: make it with ${kind.command}`
      : `the ${kind.noun} ${path} cannot be read: ${
        cause instanceof Error ? cause.message : "it is not a regular file"
      }`;
    throw kind.fail("not_found", why, { cause: error });
  }
}

function checkMetadata(
  path: string,
  kind: SideFileKind,
  metadata: ReadonlyMap<string, string>,
  fingerprint: string,
): void {
  if (metadata.get("format") !== kind.format) {
    throw kind.fail(
      "wrong_format",
      `${path} is no ${kind.noun}: make one with ${kind.command}`,
    );
  }
  const version = metadata.get("format_version") ?? "";
  if (version !== kind.version) {
    throw kind.fail(
      "wrong_format",
      `${path} has format version ${quoted(version)}, this program reads ${kind.version}: make ` +
        `it again with ${kind.command}`,
    );
  }
  const found = metadata.get("model_fingerprint") ?? "";
  if (found !== fingerprint) {
    throw kind.fail(
      "wrong_model",
      `${path} was ${kind.done} for another model (fingerprint ${quoted(found)}, this model has ` +
        `${quoted(fingerprint)}): make one for this with ${kind.command}`,
    );
  }
}
