/** A small deterministic engine, tokenizer and template for tests of wire shapes and errors. @module */
import type { BudgetTable } from "../../src/butler/budget_table.ts";
import type { KvReport, KvRequest } from "../../src/butler/settings.ts";
import { NO_STEPS } from "../../src/engine/runner_types.ts";
import { TotalCounts } from "../../src/engine/totals.ts";
import type {
  Engine,
  EngineErrorData,
  EngineEvent,
  EngineInfo,
  EngineStats,
  GenerateRequest,
  SlotReply,
  SlotRequest,
  TokenLogprob,
} from "../../src/engine/types.ts";
import {
  type ChatMessage,
  type ChatTemplate,
  type EncodeOptions,
  type RenderedChat,
  TemplateError,
  type TextStream,
  type Tokenizer,
} from "../../src/tokenizer/types.ts";

/** Special tokens, by id: bytes take 0 to 255. */
export const SPECIALS = ["<s>", "</s>", "<|turn|>"] as const;
export const BOS_ID = 256;
export const END_ID = 257;
export const TURN_ID = 258;
/** Tokens of several characters. */
const WORDS = ["Hello", ", w", "ST", "OP"] as const;
export const VOCAB_SIZE = 256 + SPECIALS.length + WORDS.length;
/** The engine's vocabulary is padded, as that of many models. */
export const PADDED_VOCAB_SIZE = VOCAB_SIZE + 5;

const PIECES = [...SPECIALS, ...WORDS];

/** One token a byte, three special tokens and a few words that only the engine uses. */
export class FakeTokenizer implements Tokenizer {
  readonly hasUnknownPatterns = false;
  readonly vocabSize = VOCAB_SIZE;
  readonly kind = "bpe";
  readonly bosId = BOS_ID;
  readonly endIds: ReadonlySet<number> = new Set([END_ID]);

  constructor(readonly addsBos = false) {}

  encode(text: string, { parseSpecial, addBos }: EncodeOptions): number[] {
    const ids = addBos && this.addsBos ? [BOS_ID] : [];
    const parts = parseSpecial ? text.split(/(<s>|<\/s>|<\|turn\|>)/) : [text];
    for (const part of parts) {
      const special = SPECIALS.findIndex((name) => parseSpecial && name === part);
      if (special >= 0) ids.push(BOS_ID + special);
      else ids.push(...new TextEncoder().encode(part));
    }
    return ids;
  }

  tokenBytes(id: number): Uint8Array {
    if (id < 256) return Uint8Array.of(id);
    const piece = PIECES[id - 256];
    if (piece === undefined) throw new RangeError(`no token ${id}`);
    return new TextEncoder().encode(piece);
  }

  isSpecial(id: number): boolean {
    return id >= 256 && id < 256 + SPECIALS.length;
  }

  decode(ids: readonly number[], options: { skipSpecial?: boolean } = {}): string {
    const bytes = ids.filter((id) => !(options.skipSpecial && this.isSpecial(id)))
      .flatMap((id) => [...this.tokenBytes(id)]);
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }

  stream(options: { skipSpecial?: boolean } = {}): TextStream {
    const decoder = new TextDecoder();
    const push = (id: number) =>
      options.skipSpecial && this.isSpecial(id)
        ? ""
        : decoder.decode(Uint8Array.from(this.tokenBytes(id)), { stream: true });
    return { push, pushAll: (ids) => ids.map(push).join(""), end: () => "" };
  }
}

/** Writes `<|turn|>role:content` for each message. */
export class FakeTemplate implements ChatTemplate {
  readonly source = "{# fake #}";
  closed = false;

  constructor(private readonly tokenizer: Tokenizer) {}

  render(
    messages: readonly ChatMessage[],
    options: { addGenerationPrompt?: boolean } = {},
  ): Promise<RenderedChat> {
    if (messages.some((message) => message.content === "RAISE")) {
      return Promise.reject(new TemplateError("raised", "roles must alternate"));
    }
    const turns = messages.map((message) => `${message.role}:${message.content}`);
    if (options.addGenerationPrompt ?? true) turns.push("assistant:");
    const ids = turns.flatMap((turn) => [
      TURN_ID,
      ...this.tokenizer.encode(turn, { parseSpecial: false, addBos: false }),
    ]);
    return Promise.resolve({ text: turns.map((turn) => `<|turn|>${turn}`).join(""), ids });
  }

  close(): void {
    this.closed = true;
  }
}

/** What a {@linkcode FakeEngine} does. */
export interface FakeEngineOptions {
  /** Ids of the answer; it goes on in a circle if more are asked for. */
  readonly reply?: readonly number[] | ((request: GenerateRequest) => readonly number[]);
  readonly contextLength?: number;
  readonly vocabSize?: number;
  readonly maxSequences?: number;
  /** Time of a decode step and of a prefill chunk of 16 tokens. */
  readonly stepMs?: number;
  readonly chunkMs?: number;
  /** Fails instead of giving the token of this number. */
  readonly failAt?: (request: GenerateRequest) => number | undefined;
  readonly failure?: EngineErrorData;
  readonly kvDefaults?: KvRequest;
  /** There is a predictor, and it has a table. */
  readonly budgetTable?: BudgetTable;
  /** First tokens of a prompt that are not prefilled. */
  readonly cached?: (request: GenerateRequest) => number;
  /** What `done` says of the KV cache. */
  readonly kvReport?: (request: GenerateRequest) => KvReport;
}

interface Live {
  cancelled: boolean;
  held: boolean;
  wake: () => void;
}

/** The default answer: two- and four-byte characters, one token a byte. */
export const REPLY_TEXT = "Hello, wörld 😀!";
const REPLY = [...new TextEncoder().encode(REPLY_TEXT), END_ID];

/** Follows a script. */
export class FakeEngine implements Engine {
  readonly info: EngineInfo;
  readonly #lost = Promise.withResolvers<EngineErrorData>();
  readonly lost = this.#lost.promise;
  /** Every request that came, in order. */
  readonly requests: GenerateRequest[] = [];
  #live = new Map<string, Live>();
  #running = 0;
  #steps = 0;
  readonly #counts = new TotalCounts();
  #slotFree: (() => void)[] = [];

  constructor(private readonly options: FakeEngineOptions = {}) {
    this.info = {
      model: {
        name: "fake",
        architecture: "llama",
        vocabSize: options.vocabSize ?? PADDED_VOCAB_SIZE,
        hiddenSize: 8,
        numLayers: 2,
        numKvHeads: 2,
        numParameters: 1000,
        sizeBytes: 4000,
        trainedContext: 4096,
        fingerprint: "0123456789abcdef0123456789abcdef",
      },
      contextLength: options.contextLength ?? 256,
      maxSequences: options.maxSequences ?? 4,
      kv: {
        type: "f32",
        pageSize: 16,
        numPages: 64,
        bytesPerToken: 64,
        tiers: { deviceBytes: 65536, hostBytes: 1 << 20, diskBytes: 0 },
        defaults: options.kvDefaults ?? {},
        canProject: true,
        importanceKeys: "f16",
        canPredict: options.budgetTable !== undefined,
        budgetTable: options.budgetTable ?? null,
      },
      adapter: { description: "none", vendor: "none", software: true, features: [] },
      variants: {},
      prefillChunk: 16,
      readback: "sync",
      notes: [],
    };
  }

  async *generate(request: GenerateRequest): AsyncIterableIterator<EngineEvent> {
    if (this.#live.has(request.id)) throw new Error(`request ${request.id} is already there`);
    this.requests.push(request);
    const live: Live = { cancelled: false, held: false, wake: () => {} };
    this.#live.set(request.id, live);
    let hasSlot = false;
    try {
      while (this.#running >= this.info.maxSequences && !live.cancelled) {
        await new Promise<void>((resolve) => {
          live.wake = resolve;
          this.#slotFree.push(resolve);
        });
      }
      hasSlot = !live.cancelled;
      if (hasSlot) this.#running++;
      yield* this.#run(request, live);
    } finally {
      this.#live.delete(request.id);
      if (hasSlot) this.#running--;
      for (const wake of this.#slotFree.splice(0)) wake();
    }
  }

  async *#run(request: GenerateRequest, live: Live): AsyncGenerator<EngineEvent> {
    const { promptIds, maxTokens } = request;
    const script = typeof this.options.reply === "function"
      ? this.options.reply(request)
      : this.options.reply ?? REPLY;
    const reply = script.filter((id) => !request.bannedTokenIds.includes(id));
    let predicted = 0;
    const cached = this.options.cached?.(request) ?? 0;
    this.#counts.lookedUp(promptIds.length, cached);
    const progressOf = (processed: number) => ({
      processed,
      total: promptIds.length,
      cached,
      ms: processed,
      policy: request.kv?.policy ?? "dense",
    });
    const done = (reason: "stop" | "length" | "cancelled"): EngineEvent => ({
      type: "done",
      reason,
      timings: {
        queueMs: 0,
        promptTokens: promptIds.length - cached,
        cachedTokens: cached,
        promptMs: promptIds.length,
        predictedTokens: predicted,
        predictedMs: predicted * 2,
      },
      kv: this.options.kvReport?.(request) ?? null,
    });
    if (cached > 0) yield { type: "prefill", ...progressOf(cached) };
    for (let start = cached; start < promptIds.length; start += 16) {
      await this.#wait(this.options.chunkMs ?? 0, live);
      if (live.cancelled) return yield done("cancelled");
      const processed = Math.min(start + 16, promptIds.length);
      const promptMs = processed - start;
      this.#counts.prefilled(processed - start);
      this.#counts.wentOn({ promptMs, generatedTokens: 0, predictedMs: 0 });
      yield { type: "prefill", ...progressOf(processed) };
      if (request.promptLogprobs !== null) {
        const top = request.promptLogprobs;
        const entries = promptIds.slice(start, processed).map((id, index) =>
          start + index === 0 ? null : logprobOf(id, top)
        );
        yield { type: "prompt_logprobs", start, entries };
      }
    }
    for (let step = 0; step < maxTokens; step++) {
      await this.#wait(this.options.stepMs ?? 0, live);
      if (live.cancelled) return yield done("cancelled");
      if (this.options.failAt?.(request) === step) {
        const error = this.options.failure ?? { code: "internal", message: "a kernel broke" };
        if (["device_lost", "engine_crashed"].includes(error.code)) this.lose(error);
        return yield { type: "error", error };
      }
      const id = reply[step % reply.length] ?? 0;
      this.#steps++;
      predicted++;
      this.#counts.wentOn({ promptMs: 0, generatedTokens: 1, predictedMs: 2 });
      const logprob = request.logprobs === null ? null : logprobOf(id, request.logprobs);
      yield { type: "token", id, logprob };
      if (request.stopTokenIds.includes(id)) return yield done("stop");
    }
    yield done("length");
  }

  #wait(ms: number, live: Live): Promise<void> {
    if (live.cancelled) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      live.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  cancel(id: string): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    live.cancelled = true;
    live.wake();
  }

  /** Requests that are held now. */
  get held(): string[] {
    return [...this.#live].filter(([, { held }]) => held).map(([id]) => id);
  }

  hold(id: string, held: boolean): void {
    const live = this.#live.get(id);
    if (live !== undefined) live.held = held;
  }

  stats(): Promise<EngineStats> {
    if (this.slotError !== null) return Promise.reject(this.slotError);
    return Promise.resolve({
      runningSequences: this.#running,
      waitingSequences: this.#live.size - this.#running,
      pagesInUse: this.#running,
      numPages: 64,
      decodeSteps: this.#steps,
      decodedRows: this.#steps,
      stepSizes: { counts: [this.#steps, ...new Array<number>(13).fill(0)], sum: this.#steps },
      parkedSequences: 0,
      preemptions: 0,
      totals: this.#counts.now(NO_STEPS),
      cachedBlocks: 0,
      tiers: {
        device: { bytes: 1024 * this.#running, capacityBytes: 65536 },
        host: { bytes: 0, capacityBytes: 1 << 20 },
        disk: { bytes: 0, capacityBytes: 0 },
      },
      slots: Array.from(
        { length: this.info.maxSequences },
        () => ({ running: null, kept: null }),
      ),
    });
  }

  /** Nothing can be run any more. */
  lose(error: EngineErrorData): void {
    this.#lost.resolve(error);
  }

  /** Slot requests that came, in order. */
  readonly slotRequests: SlotRequest[] = [];

  /** What slots and figures fail with. */
  slotError: Error | null = null;

  slot(request: SlotRequest): Promise<SlotReply> {
    this.slotRequests.push(request);
    if (this.slotError !== null) return Promise.reject(this.slotError);
    return Promise.resolve({ numTokens: 32, bytes: 1000, ms: 1 });
  }

  /** Asked to leave everything in order. */
  settled = false;

  settle(): Promise<void> {
    this.settled = true;
    return this.close();
  }

  close(): Promise<void> {
    for (const id of this.#live.keys()) this.cancel(id);
    return Promise.resolve();
  }
}

function logprobOf(id: number, top: number): TokenLogprob {
  return {
    id,
    logprob: -0.5 - (id % 8) / 8,
    top: Array.from({ length: top }, (_, nth) => ({
      id: (id + nth) % VOCAB_SIZE,
      logprob: -0.5 - nth - (id % 8) / 8,
    })),
  };
}
