/** The seam between the page of metrics and its groups. @module */
import type { EngineInfo, EngineStats } from "../../engine/types.ts";

/** Prometheus' text format. */
export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** Metrics that belong together. */
export interface MetricGroup {
  /** Takes what the engine says of itself now. */
  collect(stats: EngineStats, info: EngineInfo): void;
  /** What an engine says from here on is said by another one: its totals begin at 0. */
  engineChanged(): void;
  /** There is no engine to ask. */
  engineGone(): void;
  /** The group in Prometheus' text format. */
  text(): Promise<string>;
}
