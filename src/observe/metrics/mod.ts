/** The page of `/metrics`: groups of metrics under the names that dashboards know. @module */
import { statsWithin } from "../../engine/stats_within.ts";
import type { Engine, EngineStats } from "../../engine/types.ts";
import type { ExchangeRecord, RefusedConnection, Sink } from "../types.ts";
import type { SequenceRecord } from "../sequence_record.ts";
import { llamaCppMetrics } from "./llama_cpp.ts";
import { ownMetrics } from "./own.ts";
import { vllmMetrics } from "./vllm.ts";

/** How long a scrape waits for the engine: a prefill chunk takes about two seconds. */
const STATS_WITHIN_MS = 4000;

/** Counts what happens and writes it down when asked. */
export interface Metrics extends Sink {
  /** The page, with what the engine says of itself now; null: there is none. */
  page(engine: Engine | null): Promise<string>;
  /** Takes the last figures of an engine that is lost, if it still tells them. Never rejects. */
  remember(engine: Engine): Promise<void>;
}

/**
 * Makes the metrics of a server.
 *
 * @param statsWithinMs After so long an engine that does not answer keeps its last figures.
 */
export function createMetrics(
  { modelName, version, statsWithinMs = STATS_WITHIN_MS }: {
    readonly modelName: string;
    readonly version: string;
    readonly statsWithinMs?: number;
  },
): Metrics {
  const groups = [vllmMetrics(modelName), llamaCppMetrics(), ownMetrics(modelName, version)];
  let last: Engine | null = null;
  const past = new WeakSet<Engine>();
  // An engine that was waited for may answer after the one that took its place.
  const collect = (engine: Engine, stats: EngineStats): boolean => {
    if (past.has(engine)) return false;
    if (engine !== last) {
      if (last !== null) past.add(last);
      last = engine;
      for (const group of groups) group.engineChanged();
    }
    for (const group of groups) group.collect(stats, engine.info);
    return true;
  };
  const gone = () => {
    for (const group of groups) group.engineGone();
  };
  const counting = groups.filter((group) => group.token !== undefined);
  return {
    async page(engine) {
      const stats = engine === null ? null : await statsOf(engine, statsWithinMs);
      if (engine === null || stats === "gone") gone();
      else if (stats !== null) collect(engine, stats);
      return (await Promise.all(groups.map((group) => group.text()))).join("\n");
    },
    async remember(engine) {
      const stats = await statsOf(engine, statsWithinMs);
      if (stats !== null && stats !== "gone" && collect(engine, stats)) gone();
    },
    token(sequence: SequenceRecord, gapMs: number | null) {
      for (const group of counting) group.token!(sequence, gapMs);
    },
    ended(sequence: SequenceRecord) {
      for (const group of groups) group.ended?.(sequence);
    },
    exchanged(exchange: ExchangeRecord) {
      for (const group of groups) group.exchanged?.(exchange);
    },
    refused(connection: RefusedConnection) {
      for (const group of groups) group.refused?.(connection);
    },
    engineLost(code: string) {
      for (const group of groups) group.engineLost?.(code);
    },
  };
}

/** What an engine says of itself; null: nothing in time; `gone`: it never will again. */
async function statsOf(engine: Engine, withinMs: number): Promise<EngineStats | null | "gone"> {
  return await statsWithin(engine, withinMs).catch(() => "gone" as const);
}
