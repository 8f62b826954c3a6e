/**
 * What can go wrong with a request, in the shape of the OpenAI API. Thrown anywhere, turned into a
 * response (or into the last event of a stream) in one place.
 *
 * @module
 */
import { DeviceError } from "../gpu/device.ts";
import { ModelFileError } from "../model/errors.ts";
import { EncodeError } from "../tokenizer/background_encoder.ts";
import { TemplateError } from "../tokenizer/types.ts";
import type { EngineErrorData } from "../engine/types.ts";
import type { ErrorBody } from "./openapi/answers.ts";

/** The kinds of error that clients tell apart. */
export type ErrorType = ErrorBody["error"]["type"];

/** Everything about an error besides its status, type and message. */
export interface RequestErrorDetails {
  /** Field of the body that is wrong, as a path: `messages[0].role`. */
  readonly param?: string;
  readonly code?: string | number;
  /** Further members of the error object. */
  readonly extra?: Pick<ErrorBody["error"], "n_prompt_tokens" | "n_ctx">;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** A request that cannot be answered. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  readonly headers: Readonly<Record<string, string>>;
  readonly body: ErrorBody;

  constructor(
    readonly status: number,
    type: ErrorType,
    message: string,
    details: RequestErrorDetails = {},
  ) {
    super(message, { cause: details.cause });
    this.headers = details.headers ?? {};
    this.body = {
      error: {
        message,
        type,
        param: details.param ?? null,
        code: details.code ?? null,
        ...details.extra,
      },
    };
  }
}

/** 400: the request itself is wrong. */
export function badRequest(message: string, details: RequestErrorDetails = {}): RequestError {
  return new RequestError(400, "invalid_request_error", message, details);
}

/** What helps against a context that is too short; the start of the server says what limits it. */
const LARGER =
  "start the server with a larger --context, or with more --kv-host or --kv-disk where " +
  "these cut it.";

/** What helps where the oldest tokens may go. */
const CUT = "Shorten the prompt, have its oldest part left out (`truncate_prompt_tokens`: -1)";

/** What is said of a prompt that is too long. */
export interface Excess {
  /** Absent: its tokens are known exactly; false: it has so many at least. */
  readonly exact?: boolean;
  /** Tokens that were left out of it before they were counted. */
  readonly truncated?: number;
  /** What helps beside a larger context, without the ", or" that follows it. */
  readonly remedy?: string | undefined;
}

/** 400: the prompt leaves no room in the context. Names both numbers, which clients look for. */
export function contextExceeded(
  numPromptTokens: number,
  contextLength: number,
  param: string,
  { exact = true, truncated = 0, remedy = CUT }: Excess = {},
): RequestError {
  const have = `${exact ? "" : "at least "}${numPromptTokens} tokens` +
    (truncated > 0 ? ` after ${truncated} were left out` : "");
  return badRequest(
    `This model's maximum context length is ${contextLength} tokens, and one of them must be ` +
      `left for the answer, but the prompt has ${have}. ${remedy}, or ${LARGER}`,
    {
      param,
      code: "context_length_exceeded",
      extra: { n_prompt_tokens: numPromptTokens, n_ctx: contextLength },
      headers: { "x-should-retry": "false" },
    },
  );
}

/**
 * 400: what of a chat has to stay has more tokens than the request leaves it.
 *
 * @param fits Whether a request that leaves it so many would be answered.
 */
export function cannotCut(
  numPromptTokens: number,
  least: number,
  limit: number,
  fits: boolean,
): RequestError {
  const larger = fits ? `let \`truncate_prompt_tokens\` be ${least} or more.` : LARGER;
  return badRequest(
    `The prompt has ${numPromptTokens} tokens, and \`truncate_prompt_tokens\` leaves it at most ` +
      `${limit}, but the messages that always stay (those of the system, and the user's last one ` +
      `with what follows it) have ${least}. Shorten them, or ${larger}`,
    {
      param: "truncate_prompt_tokens",
      code: "context_length_exceeded",
      extra: { n_prompt_tokens: numPromptTokens },
      headers: { "x-should-retry": "false" },
    },
  );
}

/** 400: so many characters that nobody counts their tokens. */
export function textTooLong(
  length: number,
  maxLength: number,
  contextLength: number,
  param: string,
): RequestError {
  return badRequest(
    `\`${param}\` has ${length} characters. This model's maximum context length is ` +
      `${contextLength} tokens, for which this server takes at most ${maxLength} characters, ` +
      "also where `truncate_prompt_tokens` leaves some out. Shorten it, start the server with more " +
      `--max-prompt-chars, or ${LARGER}`,
    {
      param,
      code: "context_length_exceeded",
      extra: { n_ctx: contextLength },
      headers: { "x-should-retry": "false" },
    },
  );
}

/** 404: a model that is not the one served. */
export function modelNotFound(name: string, servedName: string): RequestError {
  const shown = name.length > 100 ? `${name.slice(0, 100)}...` : name;
  return new RequestError(
    404,
    "not_found_error",
    `The model \`${shown}\` does not exist here. This server has \`${servedName}\`.`,
    { param: "model", code: "model_not_found" },
  );
}

/** 503: the model is not there yet. */
export function loading(): RequestError {
  return new RequestError(503, "unavailable_error", "Loading model", {
    code: 503,
    headers: { "retry-after": "1" },
  });
}

/** A path from the root of a file system, and what comes before its last part. */
const DIRECTORIES = /(?<![\w.~/-])(?:file:\/\/)?(?:[A-Za-z]:)?[/\\](?:[^\s"'`/\\:]+[/\\])+/g;

/** A text without the directories of this machine: of a path its last part is enough. */
export function withoutDirectories(text: string): string {
  return text.replaceAll(DIRECTORIES, "");
}

/** Why a model did not load, as far as it concerns a client. */
function loadFailure(cause: unknown): string {
  if (cause instanceof ModelFileError) {
    // The path as it was given may have any characters: it is taken out whole first.
    const path = cause.path.replace(/[/\\]+$/, "");
    const name = path.replace(/^.*[/\\]/, "");
    const message = path === "" ? cause.message : cause.message.replaceAll(path, name);
    return `: ${withoutDirectories(message)}`;
  }
  if (cause instanceof DeviceError) return `: ${withoutDirectories(cause.message)}`;
  // What was not foreseen goes to the log only: it may tell anything about this machine.
  return ".";
}

/** 503: the model will never be there. */
export function loadFailed(cause: unknown): RequestError {
  const reason = loadFailure(cause);
  return new RequestError(503, "unavailable_error", `The model could not be loaded${reason}`, {
    code: "model_load_failed",
    headers: { "x-should-retry": "false" },
    cause,
  });
}

/** 503: the server ends. */
export function shuttingDown(): RequestError {
  return new RequestError(503, "unavailable_error", "The server is shutting down.", {
    code: "shutting_down",
    headers: { "retry-after": "5", connection: "close" },
  });
}

/** The client went away: nobody reads this, but it must not look like a failure of the server. */
export function clientGone(): RequestError {
  return new RequestError(499, "invalid_request_error", "The client closed the request.", {
    code: "client_closed_request",
  });
}

/** The client takes nothing of its answer any more: should it read on, this is what it finds. */
export function clientStalled(): RequestError {
  return new RequestError(
    408,
    "invalid_request_error",
    "The answer was given up because its client did not read it.",
    { code: "client_stalled" },
  );
}

/** An error that the engine reported, as an answer. */
export function engineFailure(error: EngineErrorData): RequestError {
  const { code, message: whole, param, lasting = false } = error;
  const message = withoutDirectories(whole);
  const cause = new Error(whole);
  switch (code) {
    case "invalid_request":
      return badRequest(message, { code, cause, ...(param === undefined ? {} : { param }) });
    case "out_of_memory":
      return new RequestError(503, "server_error", message, {
        code,
        cause,
        headers: lasting ? { "x-should-retry": "false" } : { "retry-after": "5" },
      });
    case "engine_closed":
      return shuttingDown();
    case "device_lost":
    case "engine_crashed":
      return new RequestError(503, "server_error", message, {
        code,
        cause,
        headers: { "x-should-retry": "false" },
      });
    default:
      return new RequestError(500, "server_error", message, { code, cause });
  }
}

/** A text that was not tokenized. */
function encodeFailure(error: EncodeError): RequestError {
  const { code, message } = error;
  const details = { code: `tokenize_${code}`, cause: error };
  if (code === "timeout") return badRequest(`The prompt is refused: ${message}.`, details);
  if (code === "busy") {
    return new RequestError(429, "rate_limit_error", `Try again in a second: ${message}.`, {
      ...details,
      headers: { "retry-after": "1" },
    });
  }
  return new RequestError(500, "server_error", "The prompt could not be tokenized.", details);
}

/** A conversation that was not rendered. */
function templateFailure(error: TemplateError): RequestError {
  const details = { code: `template_${error.code}`, cause: error };
  if (error.code === "unavailable") {
    const message = "The chat template could not be rendered. Try again.";
    return new RequestError(500, "server_error", message, details);
  }
  return badRequest(`The chat template failed on these messages: ${error.message}`, {
    param: "messages",
    ...details,
  });
}

/** Any thrown value as a {@linkcode RequestError}; what is unknown becomes a plain 500. */
export function asRequestError(thrown: unknown): RequestError {
  if (thrown instanceof RequestError) return thrown;
  if (thrown instanceof TemplateError) return templateFailure(thrown);
  if (thrown instanceof EncodeError) return encodeFailure(thrown);
  // The message of an unforeseen error may name paths of this machine: it goes to the log only.
  return new RequestError(500, "server_error", "The server failed to answer this request.", {
    code: "internal",
    cause: thrown,
  });
}
