/**
 * The model's own chat template: messages to a prompt. What the template writes may contain special
 * tokens; what a message contains may not, whatever it looks like.
 *
 * @module
 */

import { WORKERS } from "../assets.ts";
import { ModelFileError } from "../model/errors.ts";
import {
  EncodeError,
  encodeHere,
  type EncodePart,
  type PartEncoder,
} from "./background_encoder.ts";
import { SpecialTokens } from "./special.ts";
import {
  type TemplateLimits,
  type TemplateReply,
  type TemplateRequest,
  type TemplateVariables,
  timeoutMessage,
} from "./template_protocol.ts";
import {
  type ChatMessage,
  type ChatTemplate,
  type RenderedChat,
  type RenderOptions,
  TemplateError,
} from "./types.ts";
import type { Tokenizer } from "./types.ts";

/** Texts of special tokens that templates ask for as `bos_token` and so on. */
export interface TemplateTokens {
  readonly bos?: string;
  readonly eos?: string;
  readonly unk?: string;
  readonly pad?: string;
}

/** Bounds of a template. */
export interface ChatTemplateOptions {
  /** Milliseconds that one rendering may take. Default 600. */
  readonly deadlineMs?: number;
  /** UTF-16 units of the prompt, and of all message content. Default 4 Mi. */
  readonly maxLength?: number;
  /** Default 2,048. */
  readonly maxMessages?: number;
  /** Encodes the prompt; without one it is encoded where it is rendered. */
  readonly encoder?: PartEncoder | undefined;
}

/** UTF-16 units of a template; the longest in use have about 20,000. */
export const MAX_TEMPLATE_LENGTH = 256 * 1024;

/** The parser's time grows with the square of a run of white space; no template needs one. */
const MAX_SPACE = 1000;

/** Noncharacters, of which one that no message contains marks what is only text. */
const MARKS = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));
/**
 * Wall time, for want of a clock for one thread: the engine may keep every core busy, and a long
 * conversation must still render. With the grace below, a template that hangs ends within a second.
 */
const DEADLINE_MS = 600;
/** Parsing a template when the model is opened, which also starts the worker. */
const PARSE_MS = 600;
/** Renderings that may wait for each other. */
const MAX_WAITING = 256;
/** A worker that has not come up by then is given up. */
const START_MS = 10_000;
/** The worker notices its deadline itself unless it is inside one long operation. */
const GRACE_MS = 100;

/** See {@linkcode createChatTemplate}. */
export class WorkerChatTemplate implements ChatTemplate {
  readonly #tokenizer: Tokenizer;
  readonly #tokens: TemplateTokens;
  readonly #limits: TemplateLimits;
  readonly #maxMessages: number;
  readonly #encoder: PartEncoder | undefined;
  #special: SpecialTokens | undefined;
  #worker: Promise<Worker> | undefined;
  /** Renderings follow one another; this is the end of the last. */
  #last: Promise<unknown> = Promise.resolve();
  #numWaiting = 0;
  #closed = false;

  constructor(
    readonly source: string,
    tokenizer: Tokenizer,
    tokens: TemplateTokens,
    options: ChatTemplateOptions,
  ) {
    this.#tokenizer = tokenizer;
    this.#tokens = tokens;
    this.#limits = {
      deadlineMs: options.deadlineMs ?? DEADLINE_MS,
      maxLength: options.maxLength ?? 4 * 1024 * 1024,
    };
    this.#maxMessages = options.maxMessages ?? 2048;
    this.#encoder = options.encoder;
  }

  /**
   * Parses the template, which also starts the worker, so that the first rendering need not.
   *
   * @param path File that the error names.
   * @throws {ModelFileError} `bad_template`.
   */
  async validate(path: string): Promise<void> {
    const refuse = (message: string) =>
      new ModelFileError("bad_template", path, `${path}: ${message}`);
    if (this.source.length > MAX_TEMPLATE_LENGTH) {
      throw refuse(
        `the chat template has ${this.source.length} characters, more than ${MAX_TEMPLATE_LENGTH}`,
      );
    }
    for (const [run] of this.source.matchAll(/\s+/g)) {
      if (run.length > MAX_SPACE) {
        throw refuse(`the chat template has ${run.length} white space characters in a row`);
      }
    }
    const reply = await this.#ask(null);
    if (reply.type === "failed") {
      throw refuse(`the chat template cannot be parsed: ${reply.message}`);
    }
  }

  async render(
    messages: readonly ChatMessage[],
    options: RenderOptions = {},
  ): Promise<RenderedChat> {
    if (messages.length > this.#maxMessages) {
      throw new TemplateError(
        "too_long",
        `${messages.length} messages are more than the ${this.#maxMessages} that are allowed`,
      );
    }
    if (this.source.length > MAX_TEMPLATE_LENGTH) {
      throw new TemplateError("too_long", "the chat template itself is too long");
    }
    const length = messages.reduce(
      (sum, { content, name }) => sum + content.length + (name?.length ?? 0),
      0,
    );
    if (length > this.#limits.maxLength) {
      throw new TemplateError(
        "too_long",
        `messages of ${length} characters are more than the ${this.#limits.maxLength} allowed`,
      );
    }
    const mark = MARKS.find((mark) =>
      messages.every(({ content, name }) => !content.includes(mark) && !name?.includes(mark)) &&
      !this.source.includes(mark)
    );
    if (mark === undefined) {
      throw new TemplateError("invalid", "the messages contain every noncharacter of U+FDD0..FDEF");
    }
    const { signal } = options;
    const reply = await this.#ask({
      messages: messages.map((message) => this.#variable(message, mark)),
      add_generation_prompt: options.addGenerationPrompt ?? true,
      ...tokenVariables(this.#tokens),
    }, signal);
    if (reply.type === "failed") {
      throw new TemplateError(reply.code === "parse" ? "invalid" : reply.code, reply.message);
    }
    return await this.#rendered(reply.type === "text" ? reply.text : "", mark, signal);
  }

  close(): void {
    this.#closed = true;
    this.#end();
  }

  #variable(message: ChatMessage, mark: string): TemplateVariables["messages"][number] {
    const { role, content, name } = message;
    const special = this.#specialTokens();
    // Few templates know the role that took the place of `system` in OpenAI's newer models.
    const known = role !== "developer" || this.source.includes("developer");
    return {
      role: known ? role : "system",
      content: special.breakUp(content, mark),
      // A name has no layout that a mark could disturb, and templates write it inside of tags.
      ...(name === undefined
        ? {}
        : { name: name === "" ? "" : mark + special.breakUp(name, mark) }),
    };
  }

  async #rendered(marked: string, mark: string, signal?: AbortSignal): Promise<RenderedChat> {
    const tokenizer = this.#tokenizer;
    const text = marked.replaceAll(mark, "");
    const pieces = text.length === marked.length
      ? [{ text, parseSpecial: true, addBos: false }]
      : this.#specialTokens().split(marked).map((piece) =>
        typeof piece === "number" ? piece : {
          text: piece.replaceAll(mark, ""),
          parseSpecial: false,
          addBos: false,
        }
      );
    const ids = await this.#encode(pieces, signal);
    const { bosId } = tokenizer;
    if (tokenizer.addsBos && bosId !== undefined && ids[0] !== bosId) ids.unshift(bosId);
    return { text, ids };
  }

  /** Ids of pieces, some of which are ids already. */
  async #encode(
    pieces: readonly (number | EncodePart)[],
    signal: AbortSignal | undefined,
  ): Promise<number[]> {
    const parts = pieces.filter((piece) => typeof piece !== "number");
    const encoded =
      await (this.#encoder?.encode(parts, signal) ?? encodeHere(this.#tokenizer, parts));
    const ids: number[] = [];
    let nth = 0;
    for (const piece of pieces) {
      if (typeof piece === "number") ids.push(piece);
      else for (const id of encoded[nth++] ?? []) ids.push(id);
    }
    return ids;
  }

  #specialTokens(): SpecialTokens {
    if (this.#special !== undefined) return this.#special;
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const tokens: [string, number][] = [];
    for (let id = 0; id < this.#tokenizer.vocabSize; id++) {
      if (!this.#tokenizer.isSpecial(id)) continue;
      tokens.push([decoder.decode(this.#tokenizer.tokenBytes(id)), id]);
    }
    return this.#special = new SpecialTokens(tokens);
  }

  #ask(variables: TemplateVariables | null, signal?: AbortSignal): Promise<TemplateReply> {
    const { deadlineMs, maxLength } = this.#limits;
    const limits = {
      deadlineMs: variables === null ? Math.min(PARSE_MS, deadlineMs) : deadlineMs,
      maxLength,
    };
    const request = { source: this.source, variables, limits };
    if (this.#numWaiting >= MAX_WAITING) {
      const message = "too many conversations wait for the chat template";
      return Promise.reject(new EncodeError("busy", message));
    }
    this.#numWaiting++;
    const reply = this.#last.then(() => {
      signal?.throwIfAborted();
      return this.#exchange(request);
    }).finally(() => {
      this.#numWaiting--;
    });
    this.#last = reply.catch(() => {});
    return reply;
  }

  async #exchange(request: TemplateRequest): Promise<TemplateReply> {
    if (this.#closed) throw closed();
    const starting = this.#worker ??= startWorker().catch((error: unknown) => {
      // Whoever comes next tries again.
      this.#worker = undefined;
      throw error;
    });
    const worker = await starting;
    if (this.#closed) throw closed();
    worker.postMessage(request);
    const reply = await nextReply(worker, request.limits.deadlineMs + GRACE_MS);
    if (reply !== undefined && reply.type !== "died") return reply;
    // Only ending the worker ends what it is doing. The next rendering starts another.
    this.#end();
    if (reply !== undefined) {
      throw new TemplateError("unavailable", `the worker for chat templates died: ${reply.why}`);
    }
    return {
      type: "failed",
      code: "timeout",
      message: timeoutMessage(request.limits.deadlineMs),
    };
  }

  #end(): void {
    this.#worker?.then((worker) => worker.terminate(), () => {});
    this.#worker = undefined;
  }
}

function closed(): TemplateError {
  return new TemplateError("unavailable", "the chat template is closed");
}

async function startWorker(): Promise<Worker> {
  const worker = new Worker(WORKERS.template, { type: "module", name: "chat template" });
  const reply = await nextReply(worker, START_MS);
  if (reply?.type === "ready") return worker;
  worker.terminate();
  const why = reply?.type === "died" ? reply.why : "no answer";
  throw new TemplateError("unavailable", `the worker for chat templates does not start: ${why}`);
}

/** What a worker answers, or that it died. */
type Reply = TemplateReply | { readonly type: "died"; readonly why: string };

/** The next message of a worker, or undefined when it takes too long. */
function nextReply(worker: Worker, timeoutMs: number): Promise<Reply | undefined> {
  return new Promise((resolve) => {
    const settle = (reply: Reply | undefined) => {
      clearTimeout(timer);
      worker.onmessage = null;
      worker.onerror = null;
      resolve(reply);
    };
    const timer = setTimeout(() => settle(undefined), timeoutMs);
    worker.onmessage = (event: MessageEvent<TemplateReply>) => settle(event.data);
    worker.onerror = (event) => {
      event.preventDefault();
      settle({ type: "died", why: event.message });
    };
  });
}

function tokenVariables(tokens: TemplateTokens): Record<`${string}_token`, string> {
  const variables: Record<`${string}_token`, string> = {};
  if (tokens.bos !== undefined) variables["bos_token"] = tokens.bos;
  if (tokens.eos !== undefined) variables["eos_token"] = tokens.eos;
  if (tokens.unk !== undefined) variables["unk_token"] = tokens.unk;
  if (tokens.pad !== undefined) variables["pad_token"] = tokens.pad;
  return variables;
}

/**
 * A chat template. Costs nothing until it is validated or rendered: both happen in a worker that
 * is started then, bounded in time, in output and in what it may allocate.
 */
export function createChatTemplate(
  source: string,
  tokenizer: Tokenizer,
  tokens: TemplateTokens = {},
  options: ChatTemplateOptions = {},
): WorkerChatTemplate {
  return new WorkerChatTemplate(source, tokenizer, tokens, options);
}
