/** Bounds of a model's configuration, whatever file it was read from. @module */

import { z } from "zod";
import { ModelFileError } from "./errors.ts";
import { ropeConfig, type RopeScaling } from "./rope.ts";
import type { ModelConfig } from "./types.ts";

const dimension = z.int().min(1).max(2 ** 20);
const positive = z.number().positive().max(1e12);
const factor = z.number().min(1e-3).max(1e6);
const factors = z.array(factor).max(2 ** 12);
const context = z.int().min(1).max(2 ** 30);

const scalingSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("none") }),
  z.object({ type: z.literal("linear"), factor }),
  z.object({
    type: z.literal("llama3"),
    factor,
    lowFreqFactor: factor,
    highFreqFactor: factor,
    originalContext: context,
  }),
  z.object({
    type: z.literal("yarn"),
    factor,
    originalContext: context,
    betaFast: factor,
    betaSlow: factor,
    attentionFactor: factor,
    truncate: z.boolean(),
  }),
  z.object({
    type: z.literal("longrope"),
    short: factors,
    long: factors,
    originalContext: context,
    attentionFactor: factor,
  }),
]);

const rawSchema = z.object({
  architecture: z.string(),
  name: z.string(),
  vocabSize: z.int().min(1).max(2 ** 22),
  hiddenSize: dimension,
  intermediateSize: dimension,
  numLayers: z.int().min(1).max(1024),
  numHeads: z.int().min(1).max(2 ** 12),
  numKvHeads: z.int().min(1).max(2 ** 12),
  headDim: z.int().min(1).max(2 ** 12),
  contextLength: context,
  rmsNormEps: z.number().positive().max(1),
  ropeDimensions: z.int().min(2).max(2 ** 12),
  ropePairing: z.enum(["half", "adjacent"]),
  ropeTheta: positive.min(1.000001),
  ropeScaling: scalingSchema,
  ropeDivisors: factors.optional(),
  qkvBias: z.boolean(),
  qkNorm: z.boolean(),
  tiedEmbeddings: z.boolean(),
});

/** A configuration and what a person should know about it. */
export interface ConfigWithNotes {
  readonly config: ModelConfig;
  readonly notes: readonly string[];
}

/** A configuration as a reader found it; every value may still be anything. */
export type RawModelConfig = { readonly [K in keyof z.infer<typeof rawSchema>]: unknown };

/**
 * Checks a configuration and works out its angles.
 *
 * @throws {ModelFileError} `bad_config`, naming the value.
 */
export function checkConfig(path: string, raw: RawModelConfig): ModelConfig {
  const result = rawSchema.safeParse(raw);
  if (!result.success) {
    const issue = result.error.issues[0];
    const where = issue?.path.join(".") ?? "";
    throw badConfig(
      path,
      `${where} ${describe(valueAt(raw, issue?.path ?? []))}: ${issue?.message}`,
    );
  }
  const c = result.data;
  const rule = brokenRule(c);
  if (rule) throw badConfig(path, rule);
  return {
    architecture: c.architecture,
    name: printableName(c.name),
    vocabSize: c.vocabSize,
    hiddenSize: c.hiddenSize,
    intermediateSize: c.intermediateSize,
    numLayers: c.numLayers,
    numHeads: c.numHeads,
    numKvHeads: c.numKvHeads,
    headDim: c.headDim,
    contextLength: c.contextLength,
    rmsNormEps: c.rmsNormEps,
    rope: ropeConfig({
      dimensions: c.ropeDimensions,
      pairing: c.ropePairing,
      theta: c.ropeTheta,
      scaling: c.ropeScaling,
      divisors: c.ropeDivisors,
      contextLength: c.contextLength,
    }),
    qkvBias: c.qkvBias,
    qkNorm: c.qkNorm,
    tiedEmbeddings: c.tiedEmbeddings,
  };
}

/**
 * Within one window sliding attention is full attention, so a model whose window is active is
 * served up to the window's length, where its output is right, and not beyond.
 */
export function cutToWindow(
  contextLength: unknown,
  window: unknown,
): { contextLength: unknown; notes: string[] } {
  if (typeof window !== "number" || typeof contextLength !== "number") {
    return { contextLength, notes: [] };
  }
  if (window <= 0 || window >= contextLength) return { contextLength, notes: [] };
  const note = `the context is cut from ${contextLength} to ${window} tokens: beyond that the ` +
    "model uses sliding-window attention, which is not supported, so a longer --context gives " +
    "wrong output";
  return { contextLength: window, notes: [note] };
}

/** Error for a configuration that cannot be run, with what is wrong in it. */
export function badConfig(path: string, problem: string): ModelFileError {
  return new ModelFileError(
    "bad_config",
    path,
    `${path}: the model's configuration cannot be used: ${problem}`,
  );
}

/** A value from a file, fit for a message. */
export function describe(value: unknown): string {
  if (value === undefined) return "is missing";
  const text = typeof value === "bigint" ? String(value) : JSON.stringify(value) ?? String(value);
  return `is ${text.length > 80 ? `${text.slice(0, 80)}...` : text}`;
}

function brokenRule(c: z.infer<typeof rawSchema>): string | undefined {
  const pairs = c.ropeDimensions / 2;
  const scaling: RopeScaling = c.ropeScaling;
  if (c.numHeads % c.numKvHeads !== 0) {
    return `${c.numHeads} query heads cannot share ${c.numKvHeads} KV heads`;
  }
  if (c.headDim % 8 !== 0) {
    return `heads have ${c.headDim} dimensions, and only multiples of 8 are supported`;
  }
  if (c.numHeads * c.headDim > 2 ** 20) return `${c.numHeads} heads of ${c.headDim} are too many`;
  if (c.ropeDimensions > c.headDim) {
    return `RoPE rotates ${c.ropeDimensions} dimensions of heads that have ${c.headDim}`;
  }
  if (!Number.isInteger(pairs)) return `RoPE rotates an odd number of dimensions`;
  if (c.ropeDivisors && c.ropeDivisors.length !== pairs) {
    return `there are ${c.ropeDivisors.length} RoPE factors for ${pairs} pairs of dimensions`;
  }
  if (scaling.type === "longrope") {
    const { short, long } = scaling;
    if (short.length !== pairs || long.length !== pairs) {
      return `there are ${short.length} and ${long.length} RoPE factors for ${pairs} pairs of ` +
        "dimensions";
    }
  }
  if (scaling.type === "llama3" && scaling.highFreqFactor <= scaling.lowFreqFactor) {
    return "of the RoPE scaling's frequency factors the high one is not above the low one";
  }
  return undefined;
}

function valueAt(raw: unknown, path: readonly PropertyKey[]): unknown {
  let value = raw;
  for (const key of path) {
    if (typeof value !== "object" || value === null) return undefined;
    value = Reflect.get(value, key);
  }
  return value;
}

/** Names go to terminals and to the wire: no control characters, no endless ones. */
function printableName(name: string): string {
  const clean = name.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, "").trim().slice(0, 200);
  return clean || "model";
}
