/**
 * The last check of a request before it enters the engine: whatever crosses the worker boundary
 * becomes an `invalid_request` here and never an exception further in.
 *
 * @module
 */
import { KvSettingsError, mergeKv, resolveKv } from "../butler/settings.ts";
import { checkKv } from "../butler/settings_check.ts";
import {
  type EngineErrorData,
  type EngineInfo,
  type GenerateRequest,
  MAX_TOP_LOGPROBS,
  type SamplingParams,
} from "./types.ts";

/** What a request is checked against; an {@linkcode EngineInfo} has it all. */
export interface RequestLimits {
  readonly model: Pick<EngineInfo["model"], "vocabSize" | "numLayers" | "numKvHeads">;
  /** Tokens of prompt and answer together. */
  readonly contextLength: number;
  readonly kv: Pick<EngineInfo["kv"], "defaults" | "canProject" | "canPredict" | "budgetTable">;
}

/** Why a request is refused; null if it is in order. */
export function findRequestFault(
  request: GenerateRequest,
  limits: RequestLimits,
): EngineErrorData | null {
  const message = findFault(request, limits);
  if (message !== null) return { code: "invalid_request", message };
  return findKvFault(request.kv, limits);
}

/** The fault of the settings of the KV cache, over those of the engine. */
function findKvFault(
  kv: unknown,
  { model, kv: engine }: RequestLimits,
): EngineErrorData | null {
  if (kv === undefined) return null;
  try {
    checkKv(kv);
    resolveKv(mergeKv(engine.defaults, kv), model, { ...engine, fits: true });
    return null;
  } catch (error) {
    if (!(error instanceof KvSettingsError)) throw error;
    return { code: "invalid_request", message: error.message, param: error.param };
  }
}

function findFault(request: GenerateRequest, limits: RequestLimits): string | null {
  const { vocabSize } = limits.model;
  if (typeof request !== "object" || request === null) return "the request is no object";
  if (typeof request.id !== "string" || request.id === "") return "id must be a text";
  return findIdFault("promptIds", request.promptIds, vocabSize) ??
    findIdFault("stopTokenIds", request.stopTokenIds, vocabSize) ??
    findIdFault("bannedTokenIds", request.bannedTokenIds, vocabSize) ??
    findLengthFault(request, limits) ??
    findLogprobsFault("logprobs", request.logprobs) ??
    findLogprobsFault("promptLogprobs", request.promptLogprobs) ??
    findPrefixFault(request) ??
    findSamplingFault(request.sampling, vocabSize);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function findIdFault(name: string, ids: unknown, vocabSize: number): string | null {
  if (!Array.isArray(ids)) return `${name} must be an array of token ids`;
  // By index: holes count too.
  for (let i = 0; i < ids.length; i++) {
    const id: unknown = ids[i];
    if (!isCount(id) || id >= vocabSize) {
      return `${name}[${i}] is ${String(id)}: token ids go from 0 to ${vocabSize - 1}`;
    }
  }
  return null;
}

function findLengthFault(request: GenerateRequest, limits: RequestLimits): string | null {
  const { promptIds, maxTokens, minTokens, forcedIds } = request;
  if (promptIds.length === 0) return "promptIds is empty: at least one token is needed";
  if (!isCount(maxTokens)) return `maxTokens is ${maxTokens}: it must be 0 or more`;
  if (!isCount(minTokens)) return `minTokens is ${minTokens}: it must be 0 or more`;
  if (promptIds.length + maxTokens > limits.contextLength) {
    return `the prompt has ${promptIds.length} tokens and ${maxTokens} more are asked for, but ` +
      `the context holds ${limits.contextLength}`;
  }
  if (forcedIds === undefined) return null;
  const fault = findIdFault("forcedIds", forcedIds, limits.model.vocabSize);
  if (fault !== null) return fault;
  return forcedIds.length === maxTokens
    ? null
    : `maxTokens is ${maxTokens}, but ${forcedIds.length} tokens are forced`;
}

function findLogprobsFault(name: string, value: unknown): string | null {
  if (value === null || (isCount(value) && value <= MAX_TOP_LOGPROBS)) return null;
  return `${name} is ${String(value)}: it must be null or 0 to ${MAX_TOP_LOGPROBS}`;
}

function findPrefixFault({ cachePrompt, cacheSalt }: GenerateRequest): string | null {
  if (cachePrompt !== undefined && typeof cachePrompt !== "boolean") {
    return `cachePrompt is ${String(cachePrompt)}: it must be true or false`;
  }
  if (cacheSalt !== undefined && typeof cacheSalt !== "string") return "cacheSalt must be a text";
  return null;
}

/** Smallest and largest value of each number; the ranges of the wire are the server's affair. */
const SAMPLING_RANGES = {
  temperature: [0, Infinity],
  topK: [0, Infinity],
  typicalP: [0, 1],
  topP: [0, 1],
  minP: [0, 1],
  repetitionPenalty: [0, Infinity],
  repeatLastN: [-1, Infinity],
  frequencyPenalty: [-Infinity, Infinity],
  presencePenalty: [-Infinity, Infinity],
  seed: [0, 2 ** 32 - 1],
} as const satisfies Partial<Record<keyof SamplingParams, readonly [number, number]>>;

const INTEGERS: ReadonlySet<string> = new Set(["topK", "repeatLastN", "seed"]);

function findSamplingFault(sampling: SamplingParams, vocabSize: number): string | null {
  if (typeof sampling !== "object" || sampling === null) return "sampling is no object";
  for (const [name, [least, most]] of Object.entries(SAMPLING_RANGES)) {
    const value: unknown = sampling[name as keyof typeof SAMPLING_RANGES];
    const fits = typeof value === "number" && Number.isFinite(value) && value >= least &&
      value <= most && (!INTEGERS.has(name) || Number.isInteger(value));
    if (!fits) return `sampling.${name} is ${String(value)}`;
  }
  if (!Array.isArray(sampling.logitBias)) return "sampling.logitBias must be an array";
  for (const entry of sampling.logitBias as readonly unknown[]) {
    if (!Array.isArray(entry) || entry.length !== 2 || typeof entry[1] !== "number") {
      return "sampling.logitBias must hold pairs of token id and number";
    }
    const fault = findIdFault("sampling.logitBias", [entry[0]], vocabSize);
    if (fault !== null) return fault;
    // Minus infinity is a ban.
    if (Number.isNaN(entry[1]) || entry[1] === Infinity) {
      return `sampling.logitBias holds ${entry[1]}`;
    }
  }
  return null;
}
