/**
 * From the tensors of a file to the tensors of a model: which ones a configuration needs, in which
 * shape, and where a format keeps them.
 *
 * @module
 */

import { ModelFileError } from "./errors.ts";
import type { ModelFile } from "./model_file.ts";
import { BLOCK_GEOMETRY, bytesOfWeights } from "./quants.ts";
import type { ModelConfig, WeightTensor, WeightType } from "./types.ts";

/** A tensor as a file holds it, inside the file's bounds. */
export interface StoredTensor {
  readonly name: string;
  /** Undefined for a format that is not supported. */
  readonly type: WeightType | undefined;
  /** What the file calls the format. */
  readonly typeName: string;
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  readonly file: ModelFile;
  readonly position: number;
  readonly byteLength: number;
}

/** Where a format may keep a canonical tensor: under one name, or as rows of a fused tensor. */
export interface TensorPlace {
  readonly name: string;
  /** First row. */
  readonly row: number;
  /** Rows that the stored tensor must have in all. */
  readonly totalRows: number;
}

/** What a format says about names. */
export interface TensorNaming {
  /** Name in the file of an unfused tensor, given its canonical name. */
  fileName(canonical: string): string;
  /** Canonical names of the fused tensors of layer `L`, or undefined where there are none. */
  readonly fused: { readonly qkv: string; readonly gateUp: string } | undefined;
  /** Tensors that may be in the file and say nothing about the weights. */
  ignores(fileName: string): boolean;
}

interface Expected {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly vector: boolean;
  readonly places: readonly TensorPlace[];
}

/**
 * Finds every tensor that a model needs.
 *
 * @param stored - By the name in the file.
 * @throws {ModelFileError} `missing_tensor`, `shape_mismatch`, `unsupported_type`, or
 * `unsupported_architecture` if the file has weights that this program would leave out.
 */
export function resolveTensors(
  path: string,
  config: ModelConfig,
  stored: ReadonlyMap<string, StoredTensor>,
  naming: TensorNaming,
): Map<string, WeightTensor> {
  const tensors = new Map<string, WeightTensor>();
  const used = new Set<string>();
  for (const expected of expectedTensors(config, naming)) {
    // A fused tensor may bear the name of one of its parts, so the number of rows decides first.
    const found = expected.places.find(({ name, totalRows }) =>
      stored.get(name)?.shape.at(-2) === totalRows
    ) ?? expected.places.find(({ name }) => stored.has(name));
    const tensor = found && stored.get(found.name);
    if (!found || !tensor) {
      throw new ModelFileError(
        "missing_tensor",
        path,
        `${path}: tensor ${expected.places[0]!.name} is missing: the file is incomplete, or its ` +
          `configuration (${config.architecture}, ${config.numLayers} layers) is not its own`,
      );
    }
    used.add(found.name);
    tensors.set(expected.name, view(path, expected, found, tensor));
  }
  for (const name of stored.keys()) {
    if (used.has(name) || naming.ignores(name)) continue;
    throw new ModelFileError(
      "unsupported_architecture",
      path,
      `${path}: tensor ${JSON.stringify(name.slice(0, 200))} has no place in the ` +
        `${config.architecture} models that are supported; leaving it out would give wrong output`,
    );
  }
  return tensors;
}

/**
 * Refuses tensors that share bytes: no tool writes such files, and what is read must not depend on
 * which of two names it is read under.
 *
 * @throws {ModelFileError} `malformed`.
 */
export function refuseOverlap(path: string, tensors: StoredTensor[]): void {
  tensors.sort((a, b) => a.position - b.position);
  for (let i = 1; i < tensors.length; i++) {
    const before = tensors[i - 1]!;
    const tensor = tensors[i]!;
    if (before.position + before.byteLength > tensor.position) {
      throw new ModelFileError(
        "malformed",
        path,
        `${path}: the tensors ${before.name} and ${tensor.name} overlap`,
      );
    }
  }
}

function* expectedTensors(config: ModelConfig, naming: TensorNaming): Generator<Expected> {
  const { hiddenSize, intermediateSize, headDim, vocabSize } = config;
  const q = config.numHeads * headDim;
  const kv = config.numKvHeads * headDim;
  const own = (name: string, rows: number): TensorPlace => {
    return { name: naming.fileName(name), row: 0, totalRows: rows };
  };
  const matrix = (name: string, rows: number, cols: number, part?: TensorPlace): Expected => {
    const places = part ? [own(name, rows), part] : [own(name, rows)];
    return { name, rows, cols, vector: false, places };
  };
  const vector = (name: string, cols: number): Expected => {
    return { name, rows: 1, cols, vector: true, places: [own(name, 1)] };
  };

  yield matrix("token_embd", vocabSize, hiddenSize);
  for (let layer = 0; layer < config.numLayers; layer++) {
    const blk = `blk.${layer}.`;
    const qkv = (row: number): TensorPlace | undefined =>
      naming.fused &&
      { name: naming.fileName(blk + naming.fused.qkv), row, totalRows: q + 2 * kv };
    const gateUp = (row: number): TensorPlace | undefined =>
      naming.fused &&
      { name: naming.fileName(blk + naming.fused.gateUp), row, totalRows: 2 * intermediateSize };

    yield vector(`${blk}attn_norm`, hiddenSize);
    yield matrix(`${blk}attn_q`, q, hiddenSize, qkv(0));
    yield matrix(`${blk}attn_k`, kv, hiddenSize, qkv(q));
    yield matrix(`${blk}attn_v`, kv, hiddenSize, qkv(q + kv));
    if (config.qkvBias) {
      yield vector(`${blk}attn_q.bias`, q);
      yield vector(`${blk}attn_k.bias`, kv);
      yield vector(`${blk}attn_v.bias`, kv);
    }
    if (config.qkNorm) {
      yield vector(`${blk}attn_q_norm`, headDim);
      yield vector(`${blk}attn_k_norm`, headDim);
    }
    yield matrix(`${blk}attn_output`, hiddenSize, q);
    yield vector(`${blk}ffn_norm`, hiddenSize);
    yield matrix(`${blk}ffn_gate`, intermediateSize, hiddenSize, gateUp(0));
    yield matrix(`${blk}ffn_up`, intermediateSize, hiddenSize, gateUp(intermediateSize));
    yield matrix(`${blk}ffn_down`, hiddenSize, intermediateSize);
  }
  yield vector("output_norm", hiddenSize);
  if (!config.tiedEmbeddings) yield matrix("output", vocabSize, hiddenSize);
}

function view(
  path: string,
  expected: Expected,
  place: TensorPlace,
  stored: StoredTensor,
): WeightTensor {
  const { rows, cols } = expected;
  const { type, file } = stored;
  const wanted = expected.vector ? [cols] : [place.totalRows, cols];
  // Formats may pad a shape with outer dimensions of one.
  const given = stored.shape.slice(stored.shape.findIndex((n) => n !== 1));
  const needed = wanted.slice(wanted.findIndex((n) => n !== 1));
  if (given.length !== needed.length || needed.some((n, i) => n !== given[i])) {
    throw new ModelFileError(
      "shape_mismatch",
      path,
      `${path}: tensor ${stored.name} has the shape [${stored.shape}], the configuration asks ` +
        `for [${wanted}]: weights and configuration are not of the same model`,
    );
  }
  // Vectors are read whole by the host, which has no use for packed ones.
  if (!type || (expected.vector && BLOCK_GEOMETRY[type].weights > 1)) {
    throw new ModelFileError(
      "unsupported_type",
      path,
      `${path}: tensor ${stored.name} is stored as ${stored.typeName}, which is not supported ` +
        `here; use a file in ${expected.vector ? "F32, F16 or BF16" : "a supported format"}`,
    );
  }
  const start = stored.position + bytesOfWeights(type, place.row * cols);
  const byteLength = bytesOfWeights(type, rows * cols);
  return {
    name: expected.name,
    type,
    rows,
    cols,
    byteLength,
    readInto: (target, offset) =>
      new Promise((resolve) => {
        if (!Number.isSafeInteger(offset) || offset < 0 || offset > byteLength - target.length) {
          throw new ModelFileError(
            "truncated",
            path,
            `bytes ${offset} to ${offset + target.length} lie outside of tensor ` +
              `${expected.name}, which has ${byteLength}`,
          );
        }
        file.readFully(target, start + offset);
        resolve();
      }),
  };
}
