/** Bounds of requests. @module */

/** What one request may be, and how many of them there may be. */
export interface RequestLimits {
  /** Sequences that wait for one of the engine's places. */
  readonly maxQueue: number;
  /** Answers to one prompt (`n`). */
  readonly maxAnswers: number;
  /** Characters of a prompt; null: as many as the context could make use of. */
  readonly maxPromptCharacters: number | null;
  /** Bytes of one body. */
  readonly bodyBytes: number;
  /** Bytes of all bodies that are being received. */
  readonly bodyBufferBytes: number;
  /** Milliseconds that a body may bring nothing. */
  readonly bodyTimeoutMs: number;
  /** Milliseconds in which a body has to be there, whatever it brings meanwhile. */
  readonly bodyTotalMs: number;
  /** Milliseconds from a request to the end of its answer; null: as long as it takes. */
  readonly requestTimeoutMs: number | null;
}

const MIB = 1024 * 1024;

/** What holds where nothing is said. */
export const DEFAULT_LIMITS: RequestLimits = {
  maxQueue: 512,
  maxAnswers: 16,
  maxPromptCharacters: null,
  // A prompt of a million token ids, with room to spare.
  bodyBytes: 16 * MIB,
  bodyBufferBytes: 256 * MIB,
  bodyTimeoutMs: 10_000,
  bodyTotalMs: 300_000,
  requestTimeoutMs: 3_600_000,
};
