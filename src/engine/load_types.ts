/**
 * What an engine says of its load, and what is asked of its slots. Read them from `types.ts`, which
 * has the engine too.
 *
 * @module
 */
import type { KvReport } from "../butler/settings.ts";
import type { Buckets } from "./bucket_counts.ts";
import type { EngineTotals } from "./totals.ts";
import type { SamplingParams } from "./types.ts";

/** A moment's view of an engine's load. */
export interface EngineStats {
  readonly runningSequences: number;
  readonly waitingSequences: number;
  readonly pagesInUse: number;
  readonly numPages: number;
  readonly decodeSteps: number;
  /** Rows of all decode steps: one for each sequence of a step. */
  readonly decodedRows: number;
  /** All steps by their tokens. */
  readonly stepSizes: Buckets;
  /** Sequences whose rows lie below the device until they have a slot again. */
  readonly parkedSequences: number;
  /** Times that a sequence had to give up its slot. */
  readonly preemptions: number;
  /** Its work since it was started. */
  readonly totals: EngineTotals;
  /** Blocks that only wait to be found as the beginning of a prompt. */
  readonly cachedBlocks: number;
  /** Keys and values by tier, files with what belongs to them. */
  readonly tiers: Readonly<Record<"device" | "host" | "disk", TierLoad>>;
  /** (maxSequences) */
  readonly slots: readonly SlotLoad[];
}

/** Room and load of a tier. */
export interface TierLoad {
  readonly bytes: number;
  readonly capacityBytes: number;
}

/** A slot, without anything of a text. */
export interface SlotLoad {
  /** The sequence that has it; null for a free one. */
  readonly running: RunningSlot | null;
  /** The conversation that it had last, as far as whole blocks of it can be saved. */
  readonly kept: { readonly id: string; readonly numTokens: number } | null;
}

/** The sequence that has a slot. */
export interface RunningSlot {
  /** Id of its request. */
  readonly id: string;
  readonly numPrompt: number;
  /** Prompt tokens that have rows. */
  readonly numPrefilled: number;
  readonly numGenerated: number;
  readonly maxTokens: number;
  readonly policy: KvReport["policy"];
  readonly sampling: SamplingParams;
}

/** What is to be done with the conversation of a slot. */
export type SlotRequest =
  | { readonly action: "save" | "restore"; readonly slot: number; readonly filename: string }
  | { readonly action: "erase"; readonly slot: number };

/** What was done. */
export interface SlotReply {
  readonly numTokens: number;
  /** Of the file; 0 for one that is erased. */
  readonly bytes: number;
  readonly ms: number;
}
