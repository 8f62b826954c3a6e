/**
 * Fields of the OpenAI, llama.cpp and vLLM APIs that would change the output and that this server
 * does not have. Ignoring them would give an answer that was not asked for, so they are refused
 * unless they are at the value that changes nothing.
 *
 * @module
 */
import { badRequest, type RequestError } from "./errors.ts";

type Neutral = (value: unknown) => boolean;

const empty: Neutral = (value) =>
  value === "" || value === false ||
  (typeof value === "object" && value !== null && Object.keys(value).length === 0);
const equals = (...values: unknown[]): Neutral => (value) => values.includes(value);
const atMostZero: Neutral = (value) => typeof value === "number" && value <= 0;
const never: Neutral = () => false;
const ofType = (type: string): Neutral => (value) =>
  typeof value === "object" && value !== null && "type" in value && value.type === type;

/** Which value of a field changes nothing. */
type Table = Readonly<Record<string, Neutral>>;

const BOTH: Table = {
  // Constrained output.
  response_format: ofType("text"),
  grammar: empty,
  json_schema: empty,
  structured_outputs: empty,
  guided_json: empty,
  guided_regex: empty,
  guided_choice: empty,
  guided_grammar: empty,
  allowed_token_ids: empty,
  bad_words: empty,
  // Other searches and samplers.
  use_beam_search: equals(false),
  length_penalty: equals(1),
  logit_processors: empty,
  logits_processors: empty,
  samplers: empty,
  min_keep: atMostZero,
  mirostat: equals(0),
  dry_multiplier: equals(0),
  xtc_probability: equals(0),
  dynatemp_range: equals(0),
  top_n_sigma: atMostZero,
  tfs_z: equals(1),
  top_a: equals(0),
  smoothing_factor: equals(0),
  lora: empty,
  // Other cuts of prompt and answer.
  truncation_side: equals("left"),
  include_stop_str_in_output: equals(false),
  t_max_predict_ms: atMostZero,
  n_indent: atMostZero,
  thinking_token_budget: never,
  // Other numbers in the answer.
  prompt_logprobs: never,
  post_sampling_probs: equals(false),
};

const COMPLETION: Table = { ...BOTH, suffix: empty };

const CHAT: Table = {
  ...BOTH,
  tools: empty,
  functions: empty,
  tool_choice: equals("none", "auto"),
  function_call: equals("none", "auto"),
  audio: empty,
  modalities: (value) => Array.isArray(value) && value.every((mode) => mode === "text"),
  web_search_options: never,
  chat_template: never,
  chat_template_kwargs: empty,
  continue_final_message: equals(false),
  documents: empty,
  echo: equals(false),
};

/**
 * Refuses a body that asks for what is not there.
 *
 * @throws {RequestError} 400 with the field's name.
 */
export function refuseNotBuilt(
  body: Readonly<Record<string, unknown>>,
  route: "completion" | "chat",
): void {
  const table = route === "chat" ? CHAT : COMPLETION;
  for (const [field, isNeutral] of Object.entries(table)) {
    if (Object.hasOwn(body, field) && !isNeutral(body[field])) throw notBuilt(field);
  }
}

/** The error for a field that asks for what is not there. */
export function notBuilt(param: string, what?: string): RequestError {
  return badRequest(
    `\`${param}\`${what === undefined ? "" : ` ${what}, which`} is not supported by this server ` +
      "and would change the answer, so it is refused instead of ignored. Leave it out.",
    { param, code: "unsupported_parameter" },
  );
}
