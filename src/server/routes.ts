/** The two routes that generate. @module */
import { answer, type AnswerShape, type Chunk, type RequestContext } from "./answer.ts";
import { readJsonObject } from "./body.ts";
import { chatPromptIds } from "./chat_prompt.ts";
import { badRequest, modelNotFound } from "./errors.ts";
import { chatLogprobs, completionLogprobs } from "./logprobs.ts";
import { refuseNotBuilt } from "./not_built.ts";
import type { ChatChunk, CompletionChunk } from "./openapi/answers.ts";
import { parseBody } from "./parse_body.ts";
import { planSequences } from "./plan.ts";
import { type PromptIds, promptIds } from "./prompts.ts";
import { chatSchema, completionSchema, type GenerationBody } from "./schemas.ts";
import type { ServedModel } from "./served_model.ts";
import { type Cut, cutAsked } from "./truncation.ts";
import { type Envelope, newId, progressBody } from "./wire.ts";

/** Tokens of an answer when a completion names no number, as OpenAI has it. */
const DEFAULT_COMPLETION_TOKENS = 16;

/** Whether a name in a request means the model that is served. */
export function isServed(name: string, servedName: string): boolean {
  return name === servedName || name === "default";
}

function checkModelName(body: Readonly<Record<string, unknown>>, servedName: string): void {
  const { model } = body;
  if (typeof model === "string" && !isServed(model, servedName)) {
    throw modelNotFound(model, servedName);
  }
}

function envelopeOf(context: RequestContext, prefix: "cmpl" | "chatcmpl"): Envelope {
  return {
    id: newId(prefix),
    created: Math.floor(Date.now() / 1000),
    model: context.servedName,
    system_fingerprint: `tb-${context.model.engine.info.model.fingerprint.slice(0, 12)}`,
  };
}

function streamFlags(body: GenerationBody) {
  return {
    stream: body.stream,
    includeUsage: body.stream_options?.include_usage ?? false,
    continuousUsage: body.stream_options?.continuous_usage_stats ?? false,
    pingSeconds: body.sse_ping_interval,
  };
}

/** Tokens that were left out of each prompt; null where nothing was to be. */
function truncatedOf(cut: Cut | null, prompts: readonly PromptIds[]): readonly number[] | null {
  return cut === null ? null : prompts.map(({ truncated }) => truncated);
}

/** Says so before a body is received that could not be answered. */
function refuseWhenFull({ admission, model }: RequestContext): void {
  const { maxSequences } = model.engine.info;
  if (!admission.isOpen(maxSequences)) throw admission.refusal(maxSequences);
}

/** `POST /v1/completions`. */
export async function completions(context: RequestContext): Promise<Response> {
  const { model, limits, cacheScope } = context;
  refuseWhenFull(context);
  const raw = await readJsonObject(context.request, context.bodyLimits);
  checkModelName(raw, context.servedName);
  refuseNotBuilt(raw, "completion");
  const body = parseBody(completionSchema, raw);
  const several = body.prompt.length > 1;
  const cut = cutAsked(body, model.engine.info.contextLength, DEFAULT_COMPLETION_TOKENS);
  const prompts: PromptIds[] = [];
  for (const [index, prompt] of body.prompt.entries()) {
    // Between two texts whoever else waits has a turn.
    if (index > 0 && typeof prompt === "string") await new Promise((go) => setTimeout(go, 0));
    const ids = await promptIds(prompt, model, {
      param: several ? `prompt[${index}]` : "prompt",
      addBos: body.add_special_tokens,
      parseSpecial: body.parse_special,
      cut,
      limits,
      signal: context.request.signal,
    });
    prompts.push(ids);
  }
  const envelope = envelopeOf(context, "cmpl");
  const logprobs = body.logprobs ?? null;
  const specs = planSequences(body, model, prompts, {
    id: envelope.id,
    defaultMaxTokens: DEFAULT_COMPLETION_TOKENS,
    logprobs,
    echo: body.echo,
    limits,
    cacheScope,
  });
  const reportIds = specs.some((spec) => spec.reportIds);
  return answer(context, {
    envelope,
    specs,
    numPromptTokens: prompts.reduce((sum, { ids }) => sum + ids.length, 0),
    numAnswers: body.n,
    truncated: truncatedOf(cut, prompts),
    shape: completionShape(model, {
      logprobs: logprobs !== null,
      promptIds: reportIds ? specs.map((spec) => spec.request.promptIds) : null,
    }),
    ...streamFlags(body),
  });
}

interface ShapeOptions {
  readonly logprobs: boolean;
  /** Prompt ids by choice, where they are to be reported. */
  readonly promptIds: readonly (readonly number[])[] | null;
}

function completionShape(
  model: ServedModel,
  options: ShapeOptions,
): AnswerShape<CompletionChunk> {
  const { tokenizer } = model;
  const begun = new Set<number>();
  const idsOf = (index: number, ids: readonly number[]) => {
    if (options.promptIds === null) return {};
    const first = !begun.has(index);
    begun.add(index);
    return { token_ids: ids, ...(first ? { prompt_token_ids: options.promptIds[index] } : {}) };
  };
  return {
    object: { whole: "text_completion", chunk: "text_completion" },
    wholeExtra: () => ({}),
    whole: ({ index, text, tokens, ids, reason }) => ({
      index,
      text,
      logprobs: options.logprobs ? completionLogprobs(tokenizer, tokens) : null,
      finish_reason: reason,
      ...idsOf(index, ids),
    }),
    *delta({ index, text, tokens, ids }) {
      const logprobs = tokens.length > 0 ? completionLogprobs(tokenizer, tokens) : null;
      yield { choice: { index, text, logprobs, finish_reason: null, ...idsOf(index, ids) } };
    },
    *finish({ index, reason }) {
      const choice = { index, text: "", logprobs: null, finish_reason: reason };
      yield { choice: { ...choice, ...idsOf(index, []) } };
    },
    *progress(event) {
      const choice = { index: event.index, text: "", logprobs: null, finish_reason: null };
      yield { choice, extra: progressBody(event) };
    },
  };
}

/** `POST /v1/chat/completions`. */
export async function chatCompletions(context: RequestContext): Promise<Response> {
  const { model, limits, cacheScope } = context;
  refuseWhenFull(context);
  const raw = await readJsonObject(context.request, context.bodyLimits);
  checkModelName(raw, context.servedName);
  refuseNotBuilt(raw, "chat");
  const body = parseBody(chatSchema, raw);
  if ((body.top_logprobs ?? 0) > 0 && !body.logprobs) {
    throw badRequest("`top_logprobs` needs `logprobs` to be true.", {
      param: "top_logprobs",
      code: "invalid_value",
    });
  }
  const cut = cutAsked(body, model.engine.info.contextLength, null);
  const prompt = await chatPromptIds(body, context, cut);
  const envelope = envelopeOf(context, "chatcmpl");
  const specs = planSequences(body, model, [prompt], {
    id: envelope.id,
    defaultMaxTokens: null,
    logprobs: body.logprobs ? body.top_logprobs ?? 0 : null,
    echo: false,
    limits,
    cacheScope,
  });
  return answer(context, {
    envelope,
    specs,
    numPromptTokens: prompt.ids.length,
    numAnswers: body.n,
    truncated: truncatedOf(cut, [prompt]),
    shape: chatShape(model, {
      logprobs: body.logprobs,
      promptIds: body.return_token_ids ? [prompt.ids] : null,
    }),
    ...streamFlags(body),
  });
}

function chatShape(model: ServedModel, options: ShapeOptions): AnswerShape<ChatChunk> {
  const { tokenizer } = model;
  const begun = new Set<number>();
  const promptIds = options.promptIds === null ? {} : { prompt_token_ids: options.promptIds[0] };
  const idsOf = (ids: readonly number[]) => options.promptIds === null ? {} : { token_ids: ids };
  const begin = function* (index: number): Generator<Chunk<ChatChunk>> {
    if (begun.has(index)) return;
    const extra = begun.size === 0 ? promptIds : {};
    begun.add(index);
    const delta = { role: "assistant", content: "" } as const;
    yield { choice: { index, delta, logprobs: null, finish_reason: null }, extra };
  };
  return {
    object: { whole: "chat.completion", chunk: "chat.completion.chunk" },
    wholeExtra: () => promptIds,
    whole: ({ index, text, tokens, ids, reason }) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: options.logprobs ? chatLogprobs(tokenizer, tokens) : null,
      finish_reason: reason,
      ...idsOf(ids),
    }),
    *delta({ index, text, tokens, ids }) {
      yield* begin(index);
      const logprobs = tokens.length > 0 ? chatLogprobs(tokenizer, tokens) : null;
      const delta = text === "" ? {} : { content: text };
      yield { choice: { index, delta, logprobs, finish_reason: null, ...idsOf(ids) } };
    },
    *finish({ index, reason }) {
      yield* begin(index);
      yield { choice: { index, delta: {}, logprobs: null, finish_reason: reason } };
    },
    *progress(event) {
      const { index } = event;
      const [opening] = [...begin(index)];
      const empty = { index, delta: {}, logprobs: null, finish_reason: null };
      yield {
        choice: opening?.choice ?? empty,
        extra: { ...opening?.extra, ...progressBody(event) },
      };
    },
  };
}
