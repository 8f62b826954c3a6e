/**
 * What each field of a request means, for `/openapi.json` and `/docs`. The types see to it that a
 * field of a schema has its line here.
 *
 * @module
 */
import type { z } from "zod";
import type {
  applyTemplateSchema,
  chatSchema,
  completionSchema,
  detokenizeSchema,
  GenerationBody,
  tokenizeSchema,
} from "../schemas.ts";
import type { slotFileSchema } from "../slot_routes.ts";

/** A line for each field of a schema. */
export type Descriptions<S extends z.ZodType> = Readonly<Record<keyof z.output<S>, string>>;

const GENERATION: Readonly<Record<keyof GenerationBody, string>> = {
  model: "The served model's name, or `default`; any other is a 404.",
  stream: "Send the answer as server-sent events, which end with `[DONE]`.",
  stream_options:
    "`include_usage` adds a last chunk with `usage`; `continuous_usage_stats` puts it in each.",
  max_tokens: "Tokens of the answer at most; it ends at the end of the context in any case.",
  max_completion_tokens: "The same as `max_tokens`, and wins.",
  min_tokens: "The answer does not end before so many tokens.",
  n: "Answers to each prompt.",
  best_of: "Must not be above `n`.",
  temperature: "0 takes the likeliest token.",
  top_p: "Keeps the likeliest tokens that have this share together; 1 is off.",
  top_k: "Keeps so many of the likeliest tokens; 0 and -1 are off.",
  min_p: "Keeps tokens at least this likely relative to the likeliest; 0 is off.",
  typical_p: "Locally typical sampling; 1 is off.",
  repetition_penalty: "Divides the logits of tokens that occurred; 1 is off.",
  repeat_penalty: "The same as `repetition_penalty`.",
  repeat_last_n: "Tokens that the repetition penalty looks back on; -1 is all.",
  frequency_penalty: "Taken off for each occurrence in the answer.",
  presence_penalty: "Taken off once for a token that occurs in the answer.",
  logit_bias: "Added to the logits of tokens, by id; `false` bans one.",
  seed: "The same seed, prompt and settings give the same tokens; -1 is any.",
  stop: "Texts that end the answer and are not part of it.",
  stop_token_ids: "Tokens that end the answer.",
  ignore_eos: "Go on past the tokens that end a text.",
  skip_special_tokens: "Leave special tokens out of the text.",
  return_token_ids: "Add the ids of prompt and answer.",
  kv: "Settings of the KV cache, in place of the command line's. Unknown names are refused.",
  return_progress:
    "Add `prompt_progress` (`total`, `cache`, `processed`, `time_ms`) to a stream while the " +
    "prompt is prefilled.",
  sse_ping_interval: "Seconds of silence after which a stream gets a comment; 0 and less are none.",
  cache_prompt: "Use rows of earlier prompts that begin alike, and leave some for later ones.",
  truncate_prompt_tokens:
    "Leave out the oldest tokens of a prompt that has more (of a chat the oldest messages, but not " +
    "the system's); -1: more than there is room for beside the answer. The reply says how many.",
  cache_salt: "Share such rows only with requests that say the same here.",
};

/** Body of `POST /v1/completions`. */
export const COMPLETION: Descriptions<typeof completionSchema> = {
  prompt: "A text, texts, token ids, or lists of token ids. Special tokens in a text are parsed.",
  ...GENERATION,
  echo: "Send the prompt before the answer.",
  logprobs: "Log-probability of each token, and of so many alternatives.",
  top_logprobs: "Of chats; has no meaning here.",
  add_special_tokens: "Put the tokenizer's first token before a text, where the model asks for it.",
  parse_special: "False: special tokens in a text are plain text.",
};

/** Body of `POST /v1/chat/completions`. */
export const CHAT: Descriptions<typeof chatSchema> = {
  messages: "The conversation; special tokens typed in a message are plain text.",
  ...GENERATION,
  logprobs: "Log-probability of each token.",
  top_logprobs: "And of so many alternatives.",
  add_generation_prompt: "End the prompt where an answer begins.",
};

/** Body of `POST /tokenize`. */
export const TOKENIZE: Descriptions<typeof tokenizeSchema> = {
  content: "The text.",
  add_special: "Put the tokenizer's first token before it, where the model asks for it.",
  parse_special: "False: special tokens in it are plain text.",
  with_pieces: "Add the text of each token, or its bytes where these are no whole characters.",
};

/** Body of `POST /detokenize`. */
export const DETOKENIZE: Descriptions<typeof detokenizeSchema> = { tokens: "The ids." };

/** Body of `POST /apply-template`. */
export const APPLY_TEMPLATE: Descriptions<typeof applyTemplateSchema> = {
  messages: "The conversation.",
  add_generation_prompt: "End the prompt where an answer begins.",
  truncate_prompt_tokens:
    "Leave out the oldest messages as /v1/chat/completions does; the reply says how many tokens.",
  max_tokens: "As there: room that a cut to -1 leaves for the answer.",
  max_completion_tokens: "The same as `max_tokens`, and wins.",
};

/** Body of `POST /slots/{id}`. */
export const SLOT_FILE: Descriptions<typeof slotFileSchema> = {
  filename: "Name of the file inside --slot-dir; needed by `save` and `restore`.",
};
