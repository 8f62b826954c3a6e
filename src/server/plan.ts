/** Turns a checked body into sequences for the engine. @module */
import { KvSettingsError, mergeKv, resolveKv } from "../butler/settings.ts";
import type { Engine, GenerateRequest, SamplingParams } from "../engine/types.ts";
import type { RequestLimits } from "./admission/limits.ts";
import { nTooLarge } from "./admission/refusals.ts";
import { badRequest, contextExceeded } from "./errors.ts";
import { notBuilt } from "./not_built.ts";
import { checkIds, fitsContext, needTokenizer, type PromptIds } from "./prompts.ts";
import type { GenerationBody } from "./schemas.ts";
import { endIdsOf, type ServedModel } from "./served_model.ts";
import { answerTokens } from "./truncation.ts";

/** One sequence to run, and how its tokens become text. */
export interface SequenceSpec {
  readonly index: number;
  readonly request: GenerateRequest;
  /** Send the prompt before the answer; null: do not. */
  readonly echo: { readonly numAdded: number } | null;
  readonly stopStrings: readonly string[];
  readonly skipSpecial: boolean;
  /** Report the ids of the answer's tokens. */
  readonly reportIds: boolean;
  /** Tell how far its prompt is. */
  readonly reportProgress: boolean;
}

/** What differs between completions and chat. */
export interface PlanOptions {
  /** Prefix of the engine's request ids. */
  readonly id: string;
  /** Used when the body names no number; null: whatever the context has room for. */
  readonly defaultMaxTokens: number | null;
  readonly logprobs: number | null;
  readonly echo: boolean;
  readonly limits: RequestLimits;
  /** Whose cached rows its prompts may use; undefined: everybody's. */
  readonly cacheScope: string | undefined;
}

/** Smallest divisor for the repetition penalty: at 0 a logit would become infinite. */
const MIN_REPETITION_PENALTY = 0.01;

function samplingOf(body: GenerationBody, seed: number): SamplingParams {
  return {
    temperature: body.temperature,
    topK: Math.max(0, body.top_k),
    typicalP: body.typical_p,
    topP: body.top_p,
    minP: body.min_p,
    repetitionPenalty: Math.max(
      MIN_REPETITION_PENALTY,
      body.repetition_penalty ?? body.repeat_penalty ?? 1,
    ),
    repeatLastN: body.repeat_last_n,
    frequencyPenalty: body.frequency_penalty,
    presencePenalty: body.presence_penalty,
    logitBias: body.logit_bias?.added ?? [],
    seed,
  };
}

/** Seed of the answer number `nth`; -1 and absence mean "any", as llama.cpp has it. */
function seedOf(seed: number | undefined, nth: number): number {
  if (seed === undefined || seed === -1) return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
  return Number(BigInt.asUintN(32, BigInt(seed) + BigInt(nth)));
}

function roomFor(prompt: PromptIds, engine: Engine, maxTokens: number | undefined): number {
  const { contextLength } = engine.info;
  const numPrompt = prompt.ids.length;
  if (!fitsContext(numPrompt, contextLength, maxTokens)) {
    throw contextExceeded(numPrompt, contextLength, prompt.param, { truncated: prompt.truncated });
  }
  return contextLength - numPrompt;
}

/**
 * The sequences of a request, prompt by prompt and within a prompt answer by answer. An answer
 * never runs past the context: it ends there with finish_reason `length`.
 *
 * @throws {RequestError} 400 for what does not fit the model.
 */
export function planSequences(
  body: GenerationBody,
  model: ServedModel,
  prompts: readonly PromptIds[],
  options: PlanOptions,
): SequenceSpec[] {
  const { engine, tokenizer } = model;
  const { vocabSize } = engine.info.model;
  const { maxAnswers } = options.limits;
  if (body.n > maxAnswers) throw nTooLarge(body.n, maxAnswers);
  checkIds(body.stop_token_ids ?? [], vocabSize, "stop_token_ids");
  for (const id of [...body.logit_bias?.added ?? []].map(([id]) => id)) checkBias(id, vocabSize);
  for (const id of body.logit_bias?.banned ?? []) checkBias(id, vocabSize);
  if (body.best_of !== undefined && body.best_of > body.n) {
    throw notBuilt("best_of", "above `n`");
  }
  const asked = answerTokens(body);
  if (asked !== undefined && body.min_tokens > asked) {
    throw badRequest(
      `\`min_tokens\` is ${body.min_tokens}, which is more than the ${asked} tokens the answer ` +
        "may have.",
      { param: "min_tokens", code: "invalid_value" },
    );
  }
  if (body.stop !== undefined && body.stop.length > 0) needTokenizer(model, "stop");
  checkKvSettings(body, engine);

  const endIds = [...endIdsOf(model)];
  const stopTokenIds = [...(body.ignore_eos ? [] : endIds), ...body.stop_token_ids ?? []];
  const cacheSalt = saltOf(options.cacheScope, body.cache_salt);
  const bannedTokenIds = [...(body.ignore_eos ? endIds : []), ...body.logit_bias?.banned ?? []];
  return prompts.flatMap((prompt, nthPrompt) => {
    const room = roomFor(prompt, engine, asked);
    const maxTokens = Math.min(asked ?? options.defaultMaxTokens ?? room, room);
    return Array.from({ length: body.n }, (_, nth): SequenceSpec => {
      const index = nthPrompt * body.n + nth;
      return {
        index,
        request: {
          id: `${options.id}-${index}`,
          promptIds: prompt.ids,
          maxTokens,
          minTokens: Math.min(body.min_tokens, maxTokens),
          stopTokenIds: [...new Set(stopTokenIds)],
          bannedTokenIds: [...new Set(bannedTokenIds)],
          // The same for every prompt, so that a prompt in a list gets what it gets alone.
          sampling: samplingOf(body, seedOf(body.seed, nth)),
          logprobs: options.logprobs,
          promptLogprobs: options.echo ? options.logprobs : null,
          ...(body.kv === undefined ? {} : { kv: body.kv }),
          ...(body.cache_prompt ? {} : { cachePrompt: false }),
          ...(cacheSalt === undefined ? {} : { cacheSalt }),
        },
        echo: options.echo ? { numAdded: prompt.numAdded } : null,
        stopStrings: body.stop ?? [],
        skipSpecial: body.skip_special_tokens,
        // Without a tokenizer ids are all there is to tell.
        reportIds: body.return_token_ids || tokenizer === undefined,
        reportProgress: body.stream && body.return_progress,
      };
    });
  });
}

/** What keeps cached rows apart: no salt of one scope is a salt of another. */
function saltOf(scope: string | undefined, salt: string | undefined): string | undefined {
  return scope === undefined ? salt : JSON.stringify([scope, salt ?? null]);
}

/** Settings of the KV cache that do not suit this model are refused before a stream begins. */
function checkKvSettings({ kv }: GenerationBody, { info }: Engine): void {
  if (kv === undefined) return;
  try {
    resolveKv(mergeKv(info.kv.defaults, kv), info.model, { ...info.kv, fits: true });
  } catch (thrown) {
    if (!(thrown instanceof KvSettingsError)) throw thrown;
    const { message, param } = thrown;
    throw badRequest(`${message}.`, { param, code: "invalid_value", cause: thrown });
  }
}

function checkBias(id: number, vocabSize: number): void {
  if (id < vocabSize) return;
  throw badRequest(
    `\`logit_bias\` names token id ${id}, but the vocabulary ends at ${vocabSize - 1}.`,
    { param: "logit_bias", code: "invalid_value" },
  );
}
