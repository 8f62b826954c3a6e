/**
 * What is told of requests on their way, and to whom. The server reports to one
 * {@linkcode Observer}; metrics, logs and spans are its sinks and know nothing of each other.
 *
 * @module
 */
import type { EngineEvent, GenerateRequest } from "../engine/types.ts";
import type { SequenceRecord } from "./sequence_record.ts";

/** How a sequence ended, by vLLM's names. `abort`: its client went away, or the server ended. */
export type Outcome = "stop" | "length" | "abort" | "error";

/** Told what happens to one sequence. */
export interface SequenceWatch {
  /** An event of the engine. */
  event(event: EngineEvent): void;
  /** The sequence is over; only the first call counts. */
  end(outcome: Outcome): void;
}

/** Told what happens to the sequences of one request. */
export interface RequestWatch {
  /** A sequence goes to the engine. */
  sequence(request: GenerateRequest): SequenceWatch;
  /** Its stream ends with an error. */
  failed(code: string | number | null): void;
  /** The answer is sent or given up. */
  finished(): void;
}

/** Reads headers of a request; `Headers` is one. */
export interface HeaderReader {
  get(name: string): string | null;
  keys(): Iterable<string>;
}

/** A request over HTTP, while it runs: one object for each. */
export interface ExchangeHandle {
  /** The id that the client gets back in `x-request-id`. Clients may choose it, also twice. */
  readonly id: string;
  /** On the clock of `performance.now()`. */
  readonly beganMs: number;
}

/** A request over HTTP, from its arrival to the end of its answer. */
export interface ExchangeRecord {
  readonly handle: ExchangeHandle;
  readonly method: string;
  /** The route as it is declared (`/v1/models/{name}`); `other` where there is none. */
  readonly route: string;
  /** Status of the response; null: the server ended before there was one. */
  readonly status: number | null;
  /** Code of the error that it was answered with, or that its stream ended with; null: with none. */
  readonly error: string | null;
  readonly endedMs: number;
  readonly sequences: readonly SequenceRecord[];
}

/** A connection that is closed before a route saw a request on it. */
export interface RefusedConnection {
  /** Code of an error: why. */
  readonly code: string;
  /**
   * What its client is told, once it says something, with the id in `x-request-id`; null: it is closed
   * without a word.
   */
  readonly answer: { readonly id: string; readonly status: number } | null;
  /** Address of the client. */
  readonly peer: string;
}

/** Gets what an {@linkcode Observer} is told. None of the calls may throw. */
export interface Sink {
  /** A request came in. */
  arrived?(exchange: ExchangeHandle, headers: HeaderReader): void;
  /** A token of a sequence was chosen, so many milliseconds after the one before; null: the first. */
  token?(sequence: SequenceRecord, gapMs: number | null): void;
  /** A sequence is over. */
  ended?(sequence: SequenceRecord): void;
  /** A request is over, its answer sent or given up. */
  exchanged?(exchange: ExchangeRecord): void;
  /** A connection was closed before there was a request on it. */
  refused?(connection: RefusedConnection): void;
  /** The engine will not answer again: `device_lost` or `engine_crashed`. */
  engineLost?(code: string): void;
}
