/**
 * The seam between everything that wants tokens (server, command line, tests) and whatever makes
 * them: both the engine in its worker and the engine in process implement {@linkcode Engine}.
 * All values are plain data, so that they can cross an isolate boundary unchanged.
 *
 * @module
 */
import { MAX_PARAMETER_SHARE } from "../butler/predictor/shape.ts";
import type { BudgetTable } from "../butler/budget_table.ts";
import type { ImportanceKeys } from "../gpu/ops/importance_project.ts";
import type { KvReport, KvRequest } from "../butler/settings.ts";
import type { EngineStats, SlotReply, SlotRequest } from "./load_types.ts";

export type {
  EngineStats,
  RunningSlot,
  SlotLoad,
  SlotReply,
  SlotRequest,
  TierLoad,
} from "./load_types.ts";

/** Sampling parameters of one sequence; checked before they come here. */
export interface SamplingParams {
  /** 0 is greedy. */
  readonly temperature: number;
  /** Keep the k most likely tokens; 0 is off. */
  readonly topK: number;
  /** Locally typical sampling; 1 is off. */
  readonly typicalP: number;
  /** Nucleus; 1 is off. */
  readonly topP: number;
  /** Keep tokens at least this likely relative to the likeliest; 0 is off. */
  readonly minP: number;
  /** 1 is off. */
  readonly repetitionPenalty: number;
  /** Tokens of prompt and answer that the repetition penalty looks back on; -1 is all. */
  readonly repeatLastN: number;
  /** Times the number of occurrences in the answer. */
  readonly frequencyPenalty: number;
  /** Once for a token that occurs in the answer. */
  readonly presencePenalty: number;
  /** (token id, added to its logit). */
  readonly logitBias: readonly (readonly [number, number])[];
  /** Unsigned 32-bit. The same seed, prompt and parameters give the same tokens. */
  readonly seed: number;
}

/** Greedy decoding, nothing else. */
export const GREEDY: SamplingParams = {
  temperature: 0,
  topK: 0,
  typicalP: 1,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repeatLastN: 64,
  frequencyPenalty: 0,
  presencePenalty: 0,
  logitBias: [],
  seed: 0,
};

/** Most alternatives that can be asked for with `logprobs`. */
export const MAX_TOP_LOGPROBS = 20;

/** One sequence to be run. */
export interface GenerateRequest {
  /** Unique among live requests. */
  readonly id: string;
  /** 1 or more ids, each inside the vocabulary. */
  readonly promptIds: readonly number[];
  /** 0 only scores the prompt. Prompt and answer together must fit the context. */
  readonly maxTokens: number;
  /** Ids in `stopTokenIds` are not sampled before this many tokens. */
  readonly minTokens: number;
  /** Sampling one of these ends the sequence with reason `stop`. */
  readonly stopTokenIds: readonly number[];
  /** Ids that are never sampled (`ignore_eos`). */
  readonly bannedTokenIds: readonly number[];
  readonly sampling: SamplingParams;
  /** Report the log-probability of each token and of this many alternatives; null is none. */
  readonly logprobs: number | null;
  /** The same for the prompt's tokens (`echo`); null is none. */
  readonly promptLogprobs: number | null;
  /**
   * Teacher forcing: these ids are fed one at a time as decoding would, instead of sampled ones.
   * `maxTokens` must be their number; stop ids are not looked at.
   */
  readonly forcedIds?: readonly number[];
  /** Settings of its KV cache; what it does not say, {@linkcode EngineOptions.kv} does. */
  readonly kv?: KvRequest;
  /** False: it uses no rows of earlier prompts and leaves none for later ones. */
  readonly cachePrompt?: boolean;
  /** Requests share rows of their prompts only with those that say the same here. */
  readonly cacheSalt?: string;
}

/** Log-probability of a token under the model's own distribution, before any sampling rule. */
export interface TokenLogprob {
  readonly id: number;
  readonly logprob: number;
  /** The most likely alternatives, most likely first. */
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
}

/** Where the time of a request went. Milliseconds; the names of the wire are made by the server. */
export interface RequestTimings {
  readonly queueMs: number;
  /** Prompt tokens that were prefilled. */
  readonly promptTokens: number;
  /** Prompt tokens that were found in the cache. */
  readonly cachedTokens: number;
  readonly promptMs: number;
  readonly predictedTokens: number;
  readonly predictedMs: number;
}

/** Why a sequence ended. `stop`: a stop id was sampled. */
export type FinishReason = "stop" | "length" | "cancelled";

/** An error that can cross an isolate boundary. */
export interface EngineErrorData {
  /**
   * `device_lost`, `out_of_memory`, `internal`, `invalid_request`; `engine_crashed` if the worker
   * died, `engine_closed` after {@linkcode Engine.close}.
   */
  readonly code: string;
  readonly message: string;
  /** Field of the request that is wrong, by the names of the HTTP API: `kv.table.layers`. */
  readonly param?: string;
  /** The same request would fail again, whatever else runs: nobody should try. */
  readonly lasting?: boolean;
}

/** What happens to a request, in order. */
export type EngineEvent =
  /** `processed` of the prompt's `total` tokens have rows; `cached` of them were found. */
  | {
    readonly type: "prefill";
    readonly processed: number;
    readonly total: number;
    readonly cached: number;
    /** Since the sequence got its slot. */
    readonly ms: number;
    /** How rows are chosen in the answer. */
    readonly policy: KvReport["policy"];
  }
  /**
   * One entry for each prompt token, in pieces as prefill goes on; `start` is the index of the
   * first. The first prompt token has no entry of its own: its piece carries null.
   */
  | {
    readonly type: "prompt_logprobs";
    readonly start: number;
    readonly entries: readonly (TokenLogprob | null)[];
  }
  /** A token was chosen. The stop token that ends a sequence is reported too. */
  | { readonly type: "token"; readonly id: number; readonly logprob: TokenLogprob | null }
  | {
    readonly type: "done";
    readonly reason: FinishReason;
    readonly timings: RequestTimings;
    /** What was done with the KV cache; null where nothing is known of it. */
    readonly kv: KvReport | null;
  }
  | { readonly type: "error"; readonly error: EngineErrorData };

/** Where rows of keys and values may lie, and how much of them; null is no bound, or no such place. */
export interface TierOptions {
  /** Rows of K and V on the device; null: what all sequences together can need. */
  readonly deviceBytes: number | null;
  readonly hostBytes: number | null;
  readonly diskDir: string | null;
  readonly diskBytes: number | null;
  /** Where prefixes are kept over a restart. */
  readonly prefixDir: string | null;
  /** Bytes of that folder at most; absent: 16 GiB. */
  readonly prefixBytes?: number;
  /** Prompts that were prefilled once are found again, as long as nobody needs their room. */
  readonly prefixCache: boolean;
  /** Where conversations are saved that somebody asks to save, and how many bytes of them. */
  readonly slotDir?: string | null;
  readonly slotBytes?: number | null;
}

/** Everything on the device and in host memory, nothing on disk. */
export const DEFAULT_TIERS: TierOptions = {
  deviceBytes: null,
  hostBytes: null,
  diskDir: null,
  diskBytes: null,
  prefixDir: null,
  prefixCache: true,
};

/** How an engine is started. */
export interface EngineOptions {
  /** `.gguf` file or Hugging Face folder. */
  readonly modelPath: string;
  /** Tokens a sequence may have; null: as trained, or less where memory does not allow. */
  readonly contextLength: number | null;
  /** Sequences that are decoded together. */
  readonly maxSequences: number;
  readonly kvType: "f16" | "f32";
  /** Prompt tokens a prefill chunk has at most; null: measured to about two seconds. */
  readonly prefillChunk: number | null;
  /** Kernel choices that override the table, as `NAME=VALUE` pairs. */
  readonly kernelOverrides: Readonly<Record<string, string>>;
  /** Settings of the KV cache where a request says nothing. */
  readonly kv: KvRequest;
  readonly tiers: TierOptions;
  /** File with the principal components of the model's keys; null: the one beside it, if any. */
  readonly calibration: string | null;
  /** File with a trained predictor of the model; null: the one beside it, if any; false: none. */
  readonly predictor: string | null | false;
  /** Parameters that a predictor may have, as a part of the model's. */
  readonly maxParameters: number;
  /** Form of the keys that rows are scored by. */
  readonly importanceKeys: ImportanceKeys;
}

/** Those options about the KV cache that leave all to the engine. */
export const DEFAULT_CACHE: Pick<
  EngineOptions,
  "kv" | "tiers" | "calibration" | "predictor" | "maxParameters" | "importanceKeys"
> = {
  kv: {},
  tiers: DEFAULT_TIERS,
  calibration: null,
  predictor: null,
  maxParameters: MAX_PARAMETER_SHARE,
  importanceKeys: "f16",
};

/** Progress of starting an engine. */
export interface LoadProgress {
  readonly phase: "device" | "weights" | "pipelines" | "ready";
  /** 0 to 1 within the phase. */
  readonly fraction: number;
}

/** What an engine says that belongs to no request. */
export interface EngineNote {
  readonly level: "warning" | "error";
  readonly message: string;
  /** Of an error that nobody expects. */
  readonly stack?: string;
}

/** What an engine says of itself once it is up. */
export interface EngineInfo {
  readonly model: {
    readonly name: string;
    readonly architecture: string;
    readonly vocabSize: number;
    readonly hiddenSize: number;
    readonly numLayers: number;
    readonly numKvHeads: number;
    readonly numParameters: number;
    readonly sizeBytes: number;
    readonly trainedContext: number;
    readonly fingerprint: string;
  };
  /** Tokens a sequence may have here. */
  readonly contextLength: number;
  readonly maxSequences: number;
  readonly kv: {
    readonly type: "f16" | "f32";
    readonly pageSize: number;
    readonly numPages: number;
    readonly bytesPerToken: number;
    /** Bytes of keys and values that each tier holds at most, files with what belongs to them. */
    readonly tiers: {
      readonly deviceBytes: number;
      readonly hostBytes: number;
      readonly diskBytes: number;
    };
    /** Settings where a request says nothing. */
    readonly defaults: KvRequest;
    /** Form of the keys that `loki` and `tokenbutler` score rows by. */
    readonly importanceKeys: ImportanceKeys;
    /** There is a calibration file of this model: `loki` can be named. */
    readonly canProject: boolean;
    /** There is a predictor of this model: `tokenbutler` can be named. */
    readonly canPredict: boolean;
    /** Budgets for each layer and KV head that the predictor brings; null: it has none. */
    readonly budgetTable: BudgetTable | null;
  };
  readonly adapter: {
    readonly description: string;
    readonly vendor: string;
    readonly software: boolean;
    readonly features: readonly string[];
  };
  /** Kernel variants in use, by shader, parted by spaces. */
  readonly variants: Readonly<Record<string, string>>;
  /** Largest number of prompt tokens in one prefill chunk. */
  readonly prefillChunk: number;
  readonly readback: "sync" | "awaited";
  /** Things a person should know (a context that was cut, a feature that is missing). */
  readonly notes: readonly string[];
}

/** Makes tokens. */
export interface Engine {
  readonly info: EngineInfo;
  /** Kept when nothing can be run any more, though nobody closed it: a lost device, a crash. */
  readonly lost: Promise<EngineErrorData>;
  /**
   * Runs a sequence. The last event is `done` or `error`. Leaving the loop early, or `cancel`,
   * frees the sequence within one step or prefill chunk.
   */
  generate(request: GenerateRequest): AsyncIterableIterator<EngineEvent>;
  cancel(id: string): void;
  /**
   * Holds a request whose events nobody takes, or lets it go on. While it is held it makes no
   * tokens, and gives its room on the device to whoever waits. Nothing of its answer changes.
   */
  hold(id: string, held: boolean): void;
  stats(): Promise<EngineStats>;
  /**
   * Saves, restores or erases the rows of a slot's conversation, between the steps of what runs.
   *
   * @throws {Error} With the name `SlotError` and the code of one (`src/kv/store/errors.ts`).
   */
  slot(request: SlotRequest): Promise<SlotReply>;
  /** Cancels what runs and frees the device. */
  close(): Promise<void>;
  /**
   * Cancels what runs, saves what is to outlive the process and removes what is not. The device is
   * left alone: for a process that ends at once.
   */
  settle(): Promise<void>;
}
