/** What an engine in one isolate is made of. @module */
import type { Conversations } from "../kv/store/conversations.ts";
import type { KvCache, SequenceNeed } from "../kv/types.ts";
import type { TierLoads } from "./load.ts";
import type { Prefixes } from "./prefixes.ts";
import type { Runner } from "./runner_types.ts";
import type { SchedulerOptions } from "./scheduler.ts";
import type { ChunkTarget } from "./step_runner.ts";
import type { EngineInfo } from "./types.ts";

/** What is asked of the cache before a request is taken in. */
export interface KvPlanner {
  /** Whether a sequence of so many rows could lie on the device as a whole. */
  fits(maxRows: number): boolean;
  /** Why a sequence could not run even alone; null if it could. */
  refusal(need: SequenceNeed): string | null;
}

/** What a `LocalEngine` is made of. */
export interface LocalEngineParts {
  readonly runner: Runner;
  readonly kv: KvCache;
  readonly kvPlanner: KvPlanner;
  readonly info: EngineInfo;
  /** Prompts that were seen before; absent or null: all of every prompt is prefilled. */
  readonly prefixes?: Prefixes | null;
  /** What lies where; absent: nothing is known but the pages of the cache. */
  readonly tierLoads?: () => TierLoads;
  /** Keeps conversations of slots; absent or null: nothing is kept. */
  readonly conversations?: Conversations | null;
  /** Frees the device; called once, after the last step. */
  readonly dispose: () => void | Promise<void>;
  /** Closes files and leaves the device as it is; called at most once, after the last step. */
  readonly settle?: () => void;
  /** Other than the engine's own choice, which follows from its sizes. */
  readonly scheduling?: Partial<Pick<SchedulerOptions, "sharedPrefillChunk" | "decodesPerPrefill">>;
  /**
   * Time that a prefill chunk should take, and the bounds of its size: the size follows what chunks
   * really took, for attention grows with the context and a machine has other work. Null keeps it.
   */
  readonly chunkTarget?: ChunkTarget | null;
  /** Told of errors that nobody expects, with their stack; for a log. */
  readonly onInternalError?: (error: unknown) => void;
}
