/**
 * How much a step has to do, by part: multiplications and bytes that it cannot do without. The
 * measure that rates are worked out against.
 *
 * @module
 */
import { rowFileBytes } from "../src/gpu/weight_layout.ts";
import { kvBytesPerToken } from "../src/kv/device_tier.ts";
import type { ModelConfig, ModelSource, WeightType } from "../src/model/types.ts";
import type { Role } from "./_roles.ts";

/** Floating point operations (a multiply and an add are two) and bytes read. */
export interface Work {
  readonly flops: number;
  readonly bytes: number;
}

/** The matrices of one role and type: summed rows times columns over all layers. */
export interface ProductShape {
  readonly role: Role;
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  /** How many matrices of this shape there are. */
  readonly count: number;
}

const ROLE_OF_TENSOR: Readonly<Record<string, Role>> = {
  attn_q: "qkv",
  attn_k: "qkv",
  attn_v: "qkv",
  attn_output: "attention out",
  ffn_gate: "gate/up",
  ffn_up: "gate/up",
  ffn_down: "down",
};

/** The matrix products of a model. Matrices that are joined on the device count as one. */
export function productShapes(source: ModelSource): ProductShape[] {
  const shapes = new Map<string, ProductShape>();
  const add = (role: Role, type: WeightType, rows: number, cols: number) => {
    const key = `${role} ${type} ${rows} ${cols}`;
    shapes.set(key, { role, type, rows, cols, count: (shapes.get(key)?.count ?? 0) + 1 });
  };
  for (let layer = 0; layer < source.config.numLayers; layer++) {
    const joined = new Map<string, ProductShape>();
    for (const [part, role] of Object.entries(ROLE_OF_TENSOR)) {
      const tensor = source.tensors.get(`blk.${layer}.${part}`);
      if (tensor === undefined) continue;
      const { type, rows, cols } = tensor;
      const key = `${role} ${type} ${cols}`;
      joined.set(key, { role, type, rows: rows + (joined.get(key)?.rows ?? 0), cols, count: 1 });
    }
    for (const { role, type, rows, cols } of joined.values()) add(role, type, rows, cols);
  }
  const head = source.tensors.get("output") ?? source.tensors.get("token_embd");
  if (head !== undefined) add("head", head.type, head.rows, head.cols);
  return [...shapes.values()];
}

/**
 * The work of a step over token rows of one or several sequences.
 *
 * @param keys For each row, the keys that it attends to.
 * @param logitRows Rows that go through the head.
 * @param sharedKeys Keys whose bytes have to be read: once for all rows of a sequence.
 */
export function stepWork(
  config: ModelConfig,
  shapes: readonly ProductShape[],
  kvType: "f16" | "f32",
  keys: readonly number[],
  logitRows: number,
  sharedKeys: number,
): Map<Role, Work> {
  const work = new Map<Role, Work>();
  for (const { role, type, rows, cols, count } of shapes) {
    const tokens = role === "head" ? logitRows : keys.length;
    const old = work.get(role) ?? { flops: 0, bytes: 0 };
    work.set(role, {
      flops: old.flops + 2 * rows * cols * count * tokens,
      bytes: old.bytes + (tokens > 0 ? rows * rowFileBytes(type, cols) * count : 0),
    });
  }
  const { numLayers, numHeads, headDim } = config;
  work.set("attention", {
    flops: 4 * numLayers * numHeads * headDim * keys.reduce((sum, count) => sum + count, 0),
    bytes: sharedKeys * kvBytesPerToken(config, kvType),
  });
  return work;
}

/** The sum of all parts. */
export function totalWork(work: ReadonlyMap<Role, Work>): Work {
  let flops = 0;
  let bytes = 0;
  for (const part of work.values()) {
    flops += part.flops;
    bytes += part.bytes;
  }
  return { flops, bytes };
}
