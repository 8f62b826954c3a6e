/**
 * What answers look like: schemas for `/openapi.json`, held against real answers by tests. What
 * writes chunks and errors takes its types from them.
 *
 * @module
 */
import { z } from "zod";

const count = () => z.int().min(0);
const finishReason = z.enum(["stop", "length"]);

const usage = z.object({
  prompt_tokens: count(),
  completion_tokens: count(),
  total_tokens: count(),
  prompt_tokens_details: z.object({
    cached_tokens: count().describe("prompt tokens that were not prefilled again"),
  }),
});

const timings = z.object({
  cache_n: count(),
  prompt_n: count(),
  prompt_ms: z.number(),
  prompt_per_token_ms: z.number(),
  prompt_per_second: z.number(),
  predicted_n: count(),
  predicted_ms: z.number(),
  predicted_per_token_ms: z.number(),
  predicted_per_second: z.number(),
});

const kv = z.looseObject({
  policy: z.string(),
  restless_layers: z.array(count()).optional().describe(
    "of the predictor's table, for an interval above 1: those that choose at every step",
  ),
  rows_per_step: z.number(),
  bytes_per_step: z.number(),
  resident_share: z.number(),
  tiers: z.object({ device: count(), host: count(), disk: count() }),
}).describe("settings of the KV cache as they were applied, and what came of them");

const truncated = count().optional().describe(
  "tokens that were left out of the prompt, with `truncate_prompt_tokens`",
);

const envelope = {
  id: z.string(),
  created: count().describe("seconds since 1970"),
  model: z.string(),
  system_fingerprint: z.string(),
};
const ending = { usage, timings, kv: kv.optional(), truncated_prompt_tokens: truncated };

const completionLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(count()),
});
const chatToken = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(count()).nullable(),
});

const completionChoice = {
  index: count(),
  text: z.string(),
  logprobs: completionLogprobs.nullable(),
  token_ids: z.array(count()).optional(),
  prompt_token_ids: z.array(count()).optional(),
};
const chatLogprobs = z.object({
  content: z.array(z.object({ ...chatToken.shape, top_logprobs: z.array(chatToken) })),
  refusal: z.null(),
});

/** Answer of `POST /v1/completions`. */
export const completionAnswer = z.object({
  ...envelope,
  object: z.literal("text_completion"),
  choices: z.array(z.object({ ...completionChoice, finish_reason: finishReason })),
  ...ending,
});

/** Answer of `POST /v1/chat/completions`. */
export const chatAnswer = z.object({
  ...envelope,
  object: z.literal("chat.completion"),
  prompt_token_ids: z.array(count()).optional(),
  choices: z.array(z.object({
    index: count(),
    message: z.object({
      role: z.literal("assistant"),
      content: z.string(),
      refusal: z.null(),
    }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: finishReason,
    token_ids: z.array(count()).optional(),
  })),
  ...ending,
});

const chunkMembers = {
  prompt_progress: z.object({
    total: count(),
    cache: count(),
    processed: count(),
    time_ms: count(),
  }).optional().describe("how far the prompt is, with `return_progress`"),
  usage: usage.nullish().describe("of the whole answer in the last chunk, with `include_usage`"),
  timings: timings.optional(),
  kv: kv.optional(),
  truncated_prompt_tokens: truncated,
};
const finishedFor = finishReason.nullable().describe("null until the choice ends");

/** A chunk of `POST /v1/completions`. */
export const completionChunk = z.object({
  ...envelope,
  object: z.literal("text_completion"),
  choices: z.array(z.object({ ...completionChoice, finish_reason: finishedFor })).max(1),
  ...chunkMembers,
});

/** A chunk of `POST /v1/chat/completions`. */
export const chatChunk = z.object({
  ...envelope,
  object: z.literal("chat.completion.chunk"),
  prompt_token_ids: z.array(count()).optional(),
  choices: z.array(z.object({
    index: count(),
    delta: z.object({ role: z.literal("assistant").optional(), content: z.string().optional() }),
    logprobs: chatLogprobs.nullable(),
    finish_reason: finishedFor,
    token_ids: z.array(count()).optional(),
  })).max(1),
  ...chunkMembers,
});

/** A value that is only written out: nobody changes it. */
type Written<T> = T extends readonly (infer E)[] ? readonly Written<E>[]
  : T extends object ? { readonly [K in keyof T]: Written<T[K]> }
  : T;

/** See {@linkcode completionChunk}. */
export type CompletionChunk = Written<z.output<typeof completionChunk>>;
/** See {@linkcode chatChunk}. */
export type ChatChunk = Written<z.output<typeof chatChunk>>;

const served = z.object({
  id: z.string(),
  object: z.literal("model"),
  created: count(),
  owned_by: z.string(),
  max_model_len: count().describe("tokens that a prompt and its answer may have together"),
  meta: z.looseObject({
    vocab_type: count(),
    n_vocab: count(),
    n_ctx_train: count(),
    n_embd: count(),
    n_params: count(),
    size: count(),
  }),
});

/** Answer of `GET /v1/models/{name}`. */
export const modelAnswer = served;
/** Answer of `GET /v1/models`. */
export const modelsAnswer = z.object({ object: z.literal("list"), data: z.array(served) });

/** Answer of `POST /tokenize`. */
export const tokenizeAnswer = z.object({
  tokens: z.union([
    z.array(count()),
    z.array(z.object({ id: count(), piece: z.union([z.string(), z.array(count())]) })),
  ]),
});
/** Answer of `POST /detokenize`. */
export const detokenizeAnswer = z.object({ content: z.string() });
/** Answer of `POST /apply-template`. */
export const templateAnswer = z.object({
  prompt: z.string(),
  truncated_prompt_tokens: truncated,
});
/** Answer of `/health` and the like. */
export const healthAnswer = z.object({ status: z.literal("ok") });

/** Answer of `GET /props`. */
export const propsAnswer = z.looseObject({
  default_generation_settings: z.looseObject({
    id: count(),
    is_processing: z.boolean().describe("whether the first slot has a sequence"),
    n_ctx: count(),
    params: z.looseObject({}),
  }),
  total_slots: count(),
  model_alias: z.string(),
  model_path: z.string().nullable(),
  chat_template: z.string().nullable(),
  chat_template_caps: z.record(z.string(), z.boolean()).describe(
    "what a chat can have; empty without a template",
  ),
  build_info: z.string(),
});

/** Answer of `GET /slots`. */
export const slotsAnswer = z.array(z.looseObject({
  id: count(),
  id_task: z.string().nullable(),
  n_ctx: count(),
  is_processing: z.boolean(),
  params: z.looseObject({}),
  next_token: z.looseObject({
    has_next_token: z.boolean(),
    has_new_line: z.boolean(),
    n_remain: count(),
    n_decoded: count(),
  }),
  n_kept: count().describe("tokens whose rows `save` would write"),
}));

const slot = { id_slot: count() };
const slotFile = { ...slot, filename: z.string() };

/** Answer of `POST /slots/{id}`. */
export const slotAnswer = z.union([
  z.object({
    ...slotFile,
    n_saved: count(),
    n_written: count(),
    timings: z.object({ save_ms: z.number() }),
  }),
  z.object({
    ...slotFile,
    n_restored: count(),
    n_read: count(),
    timings: z.object({ restore_ms: z.number() }),
  }),
  z.object({ ...slot, n_erased: count() }),
]);

/** Every error, as an answer or as an event of a stream. */
export const errorAnswer = z.object({
  error: z.object({
    message: z.string(),
    type: z.enum([
      "invalid_request_error",
      "authentication_error",
      "permission_error",
      "not_found_error",
      "rate_limit_error",
      "timeout_error",
      "server_error",
      "unavailable_error",
    ]),
    param: z.string().nullable().describe("field of the body that is wrong"),
    // 503 while loading has the number, as llama.cpp's `/health`.
    code: z.union([z.string(), z.int()]).nullable().describe("a name, or the status"),
    n_prompt_tokens: count().optional().describe("with `context_length_exceeded`"),
    n_ctx: count().optional().describe("with `context_length_exceeded`"),
  }),
});

/** See {@linkcode errorAnswer}. */
export type ErrorBody = Written<z.output<typeof errorAnswer>>;
