/** What the steps of sequences share that do not simply attend to everything. @module */
import type { Calibration } from "../butler/calibration/file.ts";
import type { Predictor } from "../butler/predictor/predictor.ts";
import type { Selector } from "../butler/selector.ts";
import type { ImportanceKeys } from "../gpu/ops/importance_project.ts";
import type { TieredCache } from "../kv/tiered_cache.ts";
import type { Forward } from "./forward.ts";
import type { ObservedAttention } from "./observed_attention.ts";
import type { OffloadSteps } from "./offload/offload_steps.ts";
import type { RecallMeter } from "./recall_meter.ts";
import type { SelectedAttention } from "./selected_attention.ts";
import type { MovedTotals, Tally } from "./tally.ts";

/** What the cache's steps are made of. */
export interface CacheStepsOptions {
  readonly forward: Forward;
  readonly cache: TieredCache;
  readonly maxPrefill: number;
  readonly calibration: Calibration | null;
  readonly predictor: Predictor | null;
  readonly importanceKeys: ImportanceKeys;
  /** Gets what decode steps did, of all sequences. */
  readonly totals: MovedTotals;
  readonly readback?: "sync" | "awaited";
}

/** Their parts; what only some policy needs is made when a sequence of it begins. */
export interface CacheParts {
  readonly options: CacheStepsOptions;
  readonly attention: SelectedAttention;
  readonly selector: Selector;
  /** By slot. */
  readonly tallies: Map<number, Tally>;
  /** Bytes from one of the step's uniforms to the next. */
  readonly stride: number;
  offload: OffloadSteps | null;
  recall: RecallMeter | null;
  observed: ObservedAttention | null;
}
