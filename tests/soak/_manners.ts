/** What a client does, as a type. @module */
import type { Random } from "../fuzz/_mutate.ts";
import type { Target } from "./_target.ts";

/** Body of a request to `/v1/completions`. */
export interface Question {
  readonly prompt: readonly number[];
  readonly max_tokens: number;
}

/** How a client ended. */
export type Outcome = "answered" | "refused" | "left" | "given up";

/** Most time that an answer may take, in milliseconds. */
export const PATIENCE_MS = 120_000;

/** What a client has at hand. */
export interface Asked {
  readonly target: Target;
  /** Number of its key. */
  readonly key: number;
  readonly question: Question;
  /** What one client alone is answered. */
  readonly answer: string;
  readonly random: Random;
}

/** A thing that a client does; gives how it ended, throws where the server did wrong. */
export type Manner = (asked: Asked) => Promise<Outcome>;

/** Manners, and how often they are taken. */
export type Manners = readonly (readonly [name: string, weight: number, Manner])[];
