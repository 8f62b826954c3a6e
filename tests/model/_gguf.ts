/** Tiny GGUF models, changed by a function. @module */

import { assert } from "std-testing";
import type { ModelFileErrorCode } from "../../src/model/errors.ts";
import type { ModelSource } from "../../src/model/types.ts";
import {
  ggufParts,
  type GgufTensor,
  type GgufValue,
  withFiles,
  writeGguf,
} from "../_model_files.ts";
import { assertRefused, withModel } from "./_refusal.ts";

/** What a file is made of. */
export type Parts = ReturnType<typeof ggufParts>;
/** Architectures that have a tiny model. */
export type Arch = Parameters<typeof ggufParts>[0];

/** A tiny model, changed by `edit`, as bytes. */
export function build(arch: Arch, edit: (parts: Parts) => void = () => {}, options = {}) {
  const parts = ggufParts(arch);
  edit(parts);
  return writeGguf(parts.metadata, parts.tensors, options).bytes;
}

/** Sets a key of the metadata. */
export function set(parts: Parts, key: string, value: GgufValue): void {
  parts.metadata = [...parts.metadata.filter(([other]) => other !== key), [key, value]];
}

/** Changes a tensor. */
export function change(parts: Parts, name: string, patch: Partial<GgufTensor>): void {
  const i = parts.tensors.findIndex((tensor) => tensor.name === name);
  assert.ok(i >= 0, `no tensor ${name} to change`);
  parts.tensors[i] = { ...parts.tensors[i]!, ...patch };
}

/** Leaves a tensor out. */
export function drop(parts: Parts, name: string): void {
  parts.tensors = parts.tensors.filter((tensor) => tensor.name !== name);
}

/** Writes the bytes to a file and opens it. */
export async function opened<T>(
  bytes: Uint8Array,
  use: (model: ModelSource) => T | Promise<T>,
): Promise<T> {
  return await withFiles({ "m.gguf": bytes }, (folder) => withModel(`${folder}/m.gguf`, use));
}

/** Writes the bytes to a file, which must be refused. */
export async function refused(bytes: Uint8Array, code: ModelFileErrorCode, ...words: string[]) {
  await withFiles({ "m.gguf": bytes }, (dir) => assertRefused(`${dir}/m.gguf`, code, ...words));
}
