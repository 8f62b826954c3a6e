/** Metrics that nobody else has a name for: tiers, selection, faults; and those of HTTP. @module */
import { ROW_BOUNDS, SHARE_BOUNDS } from "../../engine/totals.ts";
import type { EngineInfo, EngineStats } from "../../engine/types.ts";
import type { MovedBytes } from "../../kv/moves.ts";
import type { SequenceRecord } from "../sequence_record.ts";
import type { ExchangeRecord, RefusedConnection, Sink } from "../types.ts";
import { type Labels, MetricSet } from "./metric_set.ts";
import type { MetricGroup } from "./types.ts";

const HTTP_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800];
const TIERS = ["device", "host", "disk"] as const;
const DIRECTIONS: Readonly<Record<keyof MovedBytes, Labels>> = {
  deviceToHost: { from: "device", to: "host" },
  hostToDevice: { from: "host", to: "device" },
  hostToDisk: { from: "host", to: "disk" },
  diskToHost: { from: "disk", to: "host" },
};
/** Why a connection is closed: codes of errors, there from the start so that rates are right. */
const REFUSALS = ["too_many_connections", "request_timeout", "header_too_large", "invalid_http"];
/** A client may send any method: each other one would be a label more. */
const METHODS: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "OPTIONS", "DELETE", "PUT"]);

/** Makes the group. */
export function ownMetrics(modelName: string, version: string): MetricGroup & Sink {
  const set = new MetricSet({ model_name: modelName });
  const bytes = set.gauge("tokenbutler_kv_bytes", "Keys and values that a tier holds", ["tier"]);
  const capacity = set.gauge("tokenbutler_kv_capacity_bytes", "Room of a tier", ["tier"]);
  const rows = set.gauge(
    "tokenbutler_kv_rows",
    "Rows of keys and values of one layer that a tier has room taken for",
    ["tier"],
  );
  const cached = set.gauge(
    "tokenbutler_prefix_blocks",
    "Blocks of rows that only wait to be found as a prefix",
  );
  const parked = set.gauge(
    "tokenbutler_parked_sequences",
    "Sequences whose rows lie below the device until they have a slot again",
  );
  const fetched = set.followingCounter(
    "tokenbutler_kv_fetched_bytes_total",
    "Keys and values that decode steps brought to the device, restored ones included; prompts, exact " +
      "scores and measured recall bring more, which only tokenbutler_kv_moved_bytes_total has",
  );
  const moved = set.followingCounters(
    "tokenbutler_kv_moved_bytes_total",
    "Keys and values that went from tier to tier for whatever reason; between device and disk they " +
      "pass through the host and count in both directions. Saved files are no tier",
    DIRECTIONS,
  );
  const stallSeconds = set.followingCounter(
    "tokenbutler_kv_stall_seconds_total",
    "Time that decode steps took to bring rows from host or disk before they could go on",
  );
  const stalled = set.followingCounter(
    "tokenbutler_kv_stalled_steps_total",
    "Decode steps with time in tokenbutler_kv_stall_seconds_total",
  );
  const wanted = set.followingCounter(
    "tokenbutler_kv_wanted_rows_total",
    "Rows that decode steps wanted of sequences below the device, over KV heads and counted layers",
  );
  const there = set.followingCounter(
    "tokenbutler_kv_resident_rows_total",
    "Those of tokenbutler_kv_wanted_rows_total that were on the device already",
  );
  const resident = set.following(
    "tokenbutler_kv_resident_share",
    "Share of the wanted rows of a sequence that were on the device already, however it ended",
    SHARE_BOUNDS,
  );
  const attended = set.following(
    "tokenbutler_kv_rows_per_step",
    "Rows that a KV head of a selected layer attended to, mean of a sequence, however it ended",
    ROW_BOUNDS,
  );
  const samples = set.followingCounter(
    "tokenbutler_recall_samples_total",
    "Steps whose recall was measured",
  );
  const mass = set.following(
    "tokenbutler_recall_mass",
    "Share of the attention that the attended rows cover, mean of a sequence, however it ended",
    SHARE_BOUNDS,
  );
  const overlap = set.following(
    "tokenbutler_recall_overlap",
    "Share of the truly best rows among the chosen ones, mean of a sequence, however it ended",
    SHARE_BOUNDS,
  );
  const sequences = set.counter(
    "tokenbutler_sequences_total",
    "Sequences that ended; policy none: it asked for none, and ended before it had rows",
    ["policy", "outcome"],
  );
  const lost = set.counter("tokenbutler_device_lost_total", "Times that the device was lost");
  const crashed = set.counter("tokenbutler_engine_crashed_total", "Times that the engine died");
  const up = set.gauge("tokenbutler_engine_up", "1 while the engine answers, else 0");
  set.gauge("tokenbutler_build_info", "Version of the program", ["version"]).set({ version }, 1);
  const http = set.counter("http_requests_total", "Requests over HTTP, streams at their end", [
    "handler",
    "method",
    "status",
  ]);
  const duration = set.histogram(
    "http_request_duration_seconds",
    "Time of a request over HTTP, to the end of its stream",
    HTTP_S,
    ["handler", "method"],
  );
  const refused = set.counter(
    "tokenbutler_connections_refused_total",
    "Connections that were closed before there was a request on them",
    ["reason"],
  );
  for (const reason of REFUSALS) refused.inc({ reason }, 0);
  const memory = set.gauge("process_resident_memory_bytes", "Memory of the process");
  const heap = set.gauge("process_heap_bytes", "JavaScript heap of the main isolate");
  set.gauge("process_start_time_seconds", "Start of the process, since 1970")
    .set(Math.round(performance.timeOrigin) / 1000);

  return {
    collect(stats: EngineStats, info: EngineInfo) {
      up.set(1);
      const rowBytes = info.kv.bytesPerToken / info.model.numLayers;
      for (const tier of TIERS) {
        const { bytes: used, capacityBytes } = stats.tiers[tier];
        bytes.set({ tier }, used);
        capacity.set({ tier }, capacityBytes);
        rows.set({ tier }, Math.round(used / rowBytes));
      }
      cached.set(stats.cachedBlocks);
      parked.set(stats.parkedSequences);
      const { totals } = stats;
      fetched.set(totals.bytes);
      for (const [direction, counter] of Object.entries(moved)) {
        counter.set(totals.moved[direction as keyof MovedBytes]);
      }
      stallSeconds.set(totals.waitedMs / 1000);
      stalled.set(totals.waitedSteps);
      wanted.set(totals.wanted);
      there.set(totals.resident);
      samples.set(totals.recallSteps);
      for (
        const [histogram, { counts, sum }] of [
          [resident, totals.residentShares],
          [attended, totals.rowsPerStep],
          [mass, totals.recallMasses],
          [overlap, totals.recallOverlaps],
        ] as const
      ) histogram.set(counts, sum);
    },
    engineChanged: () => set.beginAnew(),
    engineGone() {
      up.set(0);
      parked.set(0);
      cached.set(0);
      for (const tier of TIERS) {
        bytes.set({ tier }, 0);
        rows.set({ tier }, 0);
      }
    },
    text() {
      const { rss, heapUsed } = Deno.memoryUsage();
      memory.set(rss);
      heap.set(heapUsed);
      return set.text();
    },

    ended({ policy, outcome }: SequenceRecord) {
      sequences.inc({ policy: policy ?? "none", outcome: outcome! });
    },
    exchanged({ handle: { beganMs }, route, method, status, endedMs }: ExchangeRecord) {
      // A server that ends is not asked for figures any more.
      if (status === null) return;
      const known = METHODS.has(method) ? method : "other";
      http.inc({ handler: route, method: known, status: String(status) });
      duration.observe({ handler: route, method: known }, (endedMs - beganMs) / 1000);
    },
    refused({ code }: RefusedConnection) {
      refused.inc({ reason: code });
    },
    engineLost(code: string) {
      (code === "device_lost" ? lost : crashed).inc();
    },
  };
}
