/** What is known of one sequence, from its events alone. Pure but for the clock that it is given. @module */
import type { KvReport } from "../butler/settings.ts";
import type { EngineEvent, GenerateRequest, RequestTimings } from "../engine/types.ts";
import type { ExchangeHandle, Outcome, SequenceWatch } from "./types.ts";

/** Told by a {@linkcode SequenceRecord} while its sequence runs. */
export interface SequenceListener {
  token(sequence: SequenceRecord, gapMs: number | null): void;
  ended(sequence: SequenceRecord): void;
}

/** Milliseconds of the parts of a sequence's life. */
export interface Phases {
  readonly queueMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
}

/** Collects what metrics, logs and spans want to know of a sequence. */
export class SequenceRecord implements SequenceWatch {
  readonly exchange: ExchangeHandle;
  readonly request: GenerateRequest;
  /** When it went to the engine, on the clock of `performance.now()`. */
  readonly beganMs: number;
  firstTokenMs: number | null = null;
  lastTokenMs: number | null = null;
  endedMs: number | null = null;
  numTokens = 0;
  /** Prompt tokens that were found in the cache, as far as is known. */
  cachedTokens = 0;
  /** Ids of the answer, where somebody wants them. */
  readonly ids: number[] | null;
  outcome: Outcome | null = null;
  /** Code of the error that ended it. */
  errorCode: string | null = null;
  /** Null where it ended before the engine could say. */
  timings: RequestTimings | null = null;
  kv: KvReport | null = null;
  /** What it asked for until the engine has begun with it, and what it got from then on; null: neither. */
  policy: KvReport["policy"] | null;
  readonly #listener: SequenceListener;
  readonly #now: () => number;

  constructor(
    exchange: ExchangeHandle,
    request: GenerateRequest,
    listener: SequenceListener,
    keepIds: boolean,
    now: () => number,
  ) {
    this.exchange = exchange;
    this.request = request;
    this.#listener = listener;
    this.#now = now;
    this.ids = keepIds ? [] : null;
    this.policy = request.kv?.policy ?? null;
    this.beganMs = now();
  }

  event(event: EngineEvent): void {
    switch (event.type) {
      case "token": {
        const now = this.#now();
        const gapMs = this.lastTokenMs === null ? null : now - this.lastTokenMs;
        this.firstTokenMs ??= now;
        this.lastTokenMs = now;
        this.numTokens++;
        this.ids?.push(event.id);
        this.#listener.token(this, gapMs);
        break;
      }
      case "prefill":
        this.cachedTokens = event.cached;
        this.policy = event.policy;
        break;
      case "done":
        this.timings = event.timings;
        this.cachedTokens = event.timings.cachedTokens;
        this.kv = event.kv;
        this.policy = event.kv?.policy ?? this.policy;
        break;
      case "error":
        this.errorCode = event.error.code;
        this.end("error");
        break;
      default:
    }
  }

  end(outcome: Outcome): void {
    if (this.outcome !== null) return;
    this.outcome = outcome;
    this.endedMs = this.#now();
    this.#listener.ended(this);
  }

  /** The parts of its life as the engine measured them; what it did not say is told from events. */
  get phases(): Phases {
    if (this.timings !== null) {
      const { queueMs, promptMs, predictedMs } = this.timings;
      return { queueMs, prefillMs: promptMs, decodeMs: predictedMs };
    }
    const end = this.endedMs ?? this.#now();
    const answered = this.firstTokenMs ?? end;
    return { queueMs: 0, prefillMs: answered - this.beganMs, decodeMs: end - answered };
  }
}
