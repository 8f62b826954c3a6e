/** Turns the prompts of a request into token ids, within bounds. @module */
import type { RequestLimits } from "./admission/limits.ts";
import { badRequest, contextExceeded, type RequestError, textTooLong } from "./errors.ts";
import type { Prompt } from "./schemas.ts";
import { encodeTexts, leastTokens, type ServedModel } from "./served_model.ts";
import { type Cut, cutIds } from "./truncation.ts";

/** A prompt as the engine takes it. */
export interface PromptIds {
  readonly ids: readonly number[];
  /** Leading ids that stand for no text of the request: a BOS that was added. */
  readonly numAdded: number;
  /** Field that it came from. */
  readonly param: string;
  /** Tokens that were left out because the request asked for it. */
  readonly truncated: number;
}

/** 400 for a token id that the vocabulary does not have. */
export function checkIds(ids: readonly number[], vocabSize: number, param: string): void {
  for (const [index, id] of ids.entries()) {
    if (id >= vocabSize) {
      throw badRequest(
        `\`${param}[${index}]\` is token id ${id}, but the vocabulary ends at ${vocabSize - 1}.`,
        { param: `${param}[${index}]`, code: "invalid_value" },
      );
    }
  }
}

/** 400 where a request needs text and the model has no tokenizer. */
export function needTokenizer(model: ServedModel, param: string) {
  if (model.tokenizer === undefined) {
    throw badRequest(
      "This model was loaded without a tokenizer and serves token ids only: send `prompt` as a " +
        "list of token ids to /v1/completions.",
      { param, code: "no_tokenizer" },
    );
  }
  return model.tokenizer;
}

/** Characters for each token of the context; ordinary text has about four. */
const CHARACTERS_PER_TOKEN = 16;
/** A text this short is tokenized whatever the context. */
const ALWAYS_TOKENIZED = 4096;

/** Characters that a prompt may have, also where it is to be cut. */
export function mostCharacters(model: ServedModel, limits: RequestLimits): number {
  return limits.maxPromptCharacters ??
    Math.max(ALWAYS_TOKENIZED, CHARACTERS_PER_TOKEN * model.engine.info.contextLength);
}

/** Refuses a text whose tokenizing would hold up everything else for too long. */
export function checkCharacters(
  model: ServedModel,
  limits: RequestLimits,
  length: number,
  param: string,
): void {
  const { contextLength } = model.engine.info;
  const maxLength = mostCharacters(model, limits);
  if (length > maxLength) throw textTooLong(length, maxLength, contextLength, param);
}

/**
 * Whether a prompt leaves room in the context. Scoring alone needs no cell for an answer, everything
 * else at least one.
 *
 * @param maxTokens Most tokens of the answer; undefined where nothing was said.
 */
export function fitsContext(
  numPrompt: number,
  contextLength: number,
  maxTokens: number | undefined,
): boolean {
  return maxTokens === 0 ? numPrompt <= contextLength : numPrompt < contextLength;
}

/**
 * Refuses early a text that cannot fit, before time is spent on tokenizing all of it.
 *
 * @param refusal What to throw where it has too many tokens: so many at least.
 */
export async function checkTextLength(
  model: ServedModel,
  length: number,
  { param, cut, limits }: Pick<PromptOptions, "param" | "cut" | "limits">,
  refusal: (least: number) => RequestError | Promise<RequestError>,
): Promise<void> {
  const least = leastTokens(needTokenizer(model, param), length);
  if (cut === null && least > model.engine.info.contextLength) throw await refusal(least);
  checkCharacters(model, limits, length, param);
}

/** How a prompt is to be read. */
export interface PromptOptions {
  /** Field that it came from. */
  readonly param: string;
  readonly addBos: boolean;
  readonly parseSpecial: boolean;
  /** What it is cut to; null: not at all. */
  readonly cut: Cut | null;
  readonly limits: RequestLimits;
  /** Fires when the client is gone. */
  readonly signal: AbortSignal;
}

/**
 * Ids of a prompt.
 *
 * @throws {RequestError} 400 for an id outside the vocabulary, an empty prompt, or text without a
 * tokenizer.
 */
export async function promptIds(
  prompt: Prompt,
  model: ServedModel,
  options: PromptOptions,
): Promise<PromptIds> {
  const { ids, param, numAdded } = typeof prompt === "string"
    ? await textIds(prompt, model, options)
    : givenIds(prompt, model, options);
  if (options.cut === null) return { ids, numAdded, param, truncated: 0 };
  const { tokenizer } = model;
  const bosId = tokenizer?.addsBos ? tokenizer.bosId ?? null : null;
  const shorter = cutIds(ids, options.cut, bosId);
  return { ...shorter, numAdded: shorter.ids[0] === bosId ? numAdded : 0, param };
}

function givenIds(prompt: readonly number[], model: ServedModel, options: PromptOptions) {
  const { param, cut } = options;
  const { contextLength, model: { vocabSize } } = model.engine.info;
  // Before each of them is looked at.
  if (cut === null && prompt.length > contextLength) {
    throw contextExceeded(prompt.length, contextLength, param);
  }
  checkIds(prompt, vocabSize, param);
  return { ids: notEmpty(prompt, param), numAdded: 0, param };
}

async function textIds(prompt: string, model: ServedModel, options: PromptOptions) {
  const { param, addBos, parseSpecial, limits, signal } = options;
  const tokenizer = needTokenizer(model, param);
  await checkTextLength(model, prompt.length, options, (least) => {
    // A cut does not lift the bound of characters.
    const remedy = prompt.length > mostCharacters(model, limits) ? "Shorten the prompt" : undefined;
    const { contextLength } = model.engine.info;
    return contextExceeded(least, contextLength, param, { exact: false, remedy });
  });
  const part = { text: prompt.toWellFormed(), parseSpecial, addBos };
  const [ids = []] = await encodeTexts(model, tokenizer, [part], signal);
  const added = addBos && tokenizer.addsBos && ids[0] === tokenizer.bosId;
  return { ids: notEmpty(ids, param), numAdded: added ? 1 : 0, param };
}

/** 400 for a prompt that the model could not continue from. */
export function notEmpty<T extends readonly number[]>(ids: T, param: string): T {
  if (ids.length > 0) return ids;
  throw badRequest(`\`${param}\` has no tokens; the model needs at least one to start from.`, {
    param,
    code: "invalid_value",
  });
}
