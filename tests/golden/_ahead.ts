/** What the tests of fetching ahead share: engines with little room, and texts that are fed by force. @module */
import type { KvRequest } from "../../src/butler/settings.ts";
import type { EngineParts } from "../../src/engine/create.ts";
import { DEFAULT_TIERS, type GenerateRequest, type TierOptions } from "../../src/engine/types.ts";
import { openEngine, type TestEngine } from "./_engine.ts";
import { makeCalibration, makePredictor, offloadedModel } from "./_offload.ts";
import { type Answer, generate } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();
const PATH = await offloadedModel();
/** Of the tiny model. */
export const NUM_LAYERS = 3;
/** Tokens of a text that are prefilled, unless a test says otherwise. */
export const NUM_PROMPT = 150;
/** Few rows. */
export const SOME: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 } };
/** Room for everything. */
export const ON_DEVICE: Partial<TierOptions> = {};
/** Longer than ten blocks: on a device that has ten it lies below, and two fit beside each other. */
export const LONG = 325;
/** Tokens of it that are prefilled. */
export const LONG_PROMPT = 280;
/** {@linkcode SOME} without a layer that takes all the room there is. */
export const BESIDE: KvRequest = { ...SOME, denseLayers: 0 };

/** What {@linkcode open} may be told. */
export interface Options {
  readonly maxSequences?: number;
  /** Told of every step that is done, from 0 on, and of its rows. */
  readonly stepped?: (parts: EngineParts, step: number, numRows: number) => unknown;
}

/** An engine with little or much room for rows. */
export function open(tiers: Partial<TierOptions>, { maxSequences = 1, stepped }: Options = {}) {
  let step = 0;
  return openEngine(PATH, {
    contextLength: 512,
    maxSequences,
    calibration: CALIBRATION,
    predictor: PREDICTOR,
    tiers: { ...DEFAULT_TIERS, ...tiers, prefixCache: false },
  }, (parts) =>
    stepped === undefined ? {} : {
      decoded: (rows) => stepped(parts, step++, rows.length),
    });
}

/** A request that feeds the end of a text as decoding would. */
export function forced(
  text: readonly number[],
  numPrompt: number,
  kv: KvRequest,
): Partial<GenerateRequest> & {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
} {
  const forcedIds = text.slice(numPrompt);
  const promptIds = text.slice(0, numPrompt);
  return { promptIds, maxTokens: forcedIds.length, forcedIds, logprobs: 0, kv };
}

/** Runs a {@linkcode forced} request, which has to succeed. */
export async function force(
  { engine }: TestEngine,
  text: readonly number[],
  kv: KvRequest,
  numPrompt = NUM_PROMPT,
): Promise<Answer> {
  const { promptIds, maxTokens, ...more } = forced(text, numPrompt, kv);
  return await generate(engine, promptIds, maxTokens, more);
}

/** Negative log-likelihood of the forced tokens. */
export function nllOf(answer: Answer): number[] {
  return answer.logprobs.map((entry) => -entry!.logprob);
}

/** The same in an engine of its own. */
export async function nll(
  text: readonly number[],
  kv: KvRequest,
  tiers: Partial<TierOptions>,
  numPrompt = NUM_PROMPT,
): Promise<number[]> {
  await using opened = await open(tiers);
  return nllOf(await force(opened, text, kv, numPrompt));
}
