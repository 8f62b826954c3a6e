/** The flags that say what of the KV cache a step attends to, and where its rows lie. @module */
import { MAX_PARAMETER_SHARE } from "../butler/predictor/shape.ts";
import {
  type Budget,
  FETCH_MODES,
  KV_DEFAULTS,
  kvPathText,
  type KvRequest,
  KvSettingsError,
  type KvTable,
  POLICY_NAMES,
} from "../butler/settings.ts";
import { KV_RANGES } from "../butler/settings_check.ts";
import { parseBudget, readTable, wireBudget } from "../butler/settings_wire.ts";
import type { EngineOptions, TierOptions } from "../engine/types.ts";
import { IMPORTANCE_KEYS } from "../gpu/ops/importance_project.ts";
import { PREDICTOR_NAME } from "../model/side_files.ts";
import { z } from "zod";
import { type Settings, shown, switchFlag, triStateFlag, UsageError, valueFlag } from "./flags.ts";
import { readTextFile } from "./inputs.ts";
import { decimal, integer, oneOf, sizeBytes, text } from "./values.ts";

const group = "KV cache";

const budget: z.ZodType<Budget, string> = z.string().transform((value, context) => {
  const parsed = parseBudget(value);
  if (parsed !== undefined) return parsed;
  context.addIssue("wanted a number of rows (768) or a share of all rows (12.5%)");
  return z.NEVER;
});

/** A setting that is a whole number; null where nothing is said, so that a request's default holds. */
function countFlag(
  range: readonly [number, number],
  fallbackText: string,
  help: string,
) {
  return valueFlag({
    group,
    help,
    placeholder: "N",
    schema: integer(...range),
    fallback: null,
    fallbackText,
  });
}

/** What a request's `kv` object says too; a request's word counts more. */
export const kvFlags = {
  policy: valueFlag({
    group,
    help: `which rows a decode step attends to: ${POLICY_NAMES.join(", ")}`,
    placeholder: "NAME",
    schema: oneOf(POLICY_NAMES),
    fallback: null,
    fallbackText:
      "dense where the request fits the device, otherwise tokenbutler, or loki where there " +
      "is no predictor",
  }),
  sinks: countFlag(
    KV_RANGES.sinks,
    String(KV_DEFAULTS.sinks),
    "first rows that are always attended to",
  ),
  window: countFlag(
    KV_RANGES.window,
    String(KV_DEFAULTS.window),
    "most recent rows that are always attended to",
  ),
  budget: valueFlag({
    group,
    help:
      "rows that a policy may choose beside those; 12.5% is a share of all rows so far, sinks " +
      "and window included",
    placeholder: "B",
    schema: budget,
    fallback: null,
    fallbackText: String(wireBudget(KV_DEFAULTS.budget)),
  }),
  interval: countFlag(
    KV_RANGES.interval,
    String(KV_DEFAULTS.interval),
    "rows are chosen anew every N steps; in layers that the predictor calls restless, at every step",
  ),
  neighbours: triStateFlag({
    group,
    help: "a run of chosen rows brings as many after it",
    fallbackText: "on for an --interval above 1",
  }),
  denseLayers: countFlag(
    KV_RANGES.denseLayers,
    "1, with quest 2",
    "leading layers that attend to everything",
  ),
  fetch: valueFlag({
    group,
    help: "in-step: chosen rows are fetched before they are attended to; ahead: while the next " +
      "step computes, for the one after",
    placeholder: "MODE",
    schema: oneOf(FETCH_MODES),
    fallback: null,
    fallbackText: KV_DEFAULTS.fetch,
  }),
  recallEvery: countFlag(
    KV_RANGES.recallEvery,
    String(KV_DEFAULTS.recallEvery),
    "measures on every N-th step what the chosen rows cover; 0 is off",
  ),
  kvTable: valueFlag({
    group,
    help:
      "JSON file with the role of each layer, the rows of each KV head and its interval, in the place of " +
      "--dense-layers",
    placeholder: "FILE",
    schema: text,
    fallback: null,
  }),
  table: triStateFlag({
    group,
    help:
      "with tokenbutler each layer and KV head has the budget that the predictor's table gives " +
      "it, --budget in the mean; off gives every head the same",
    fallbackText: "on where the predictor has a table",
  }),
} as const;

/** Where rows lie, and what `loki` needs. */
export const tierFlags = {
  kvDevice: valueFlag({
    group,
    help: "device memory for rows of keys and values at most: bytes, or 512MiB, 2G",
    placeholder: "SIZE",
    schema: sizeBytes(1),
    fallback: null,
    fallbackText: "what --context and --max-seqs need",
  }),
  kvHost: valueFlag({
    group,
    help: "host memory for rows that are not on the device at most; 0 leaves them to --kv-disk",
    placeholder: "SIZE",
    schema: sizeBytes(0),
    fallback: null,
    fallbackText: "a quarter of the memory that is left",
  }),
  kvDisk: valueFlag({
    group,
    help: "folder for rows that host memory has no room for",
    placeholder: "DIR",
    schema: text,
    fallback: null,
  }),
  kvDiskSize: valueFlag({
    group,
    help: "size of what lies there at most",
    placeholder: "SIZE",
    schema: sizeBytes(1),
    fallback: null,
    fallbackText: "64GiB",
  }),
  prefixDir: valueFlag({
    group,
    help: "folder that keeps the beginnings of prompts over a restart",
    placeholder: "DIR",
    schema: text,
    fallback: null,
  }),
  prefixDirSize: valueFlag({
    group,
    help: "size of what lies there at most: what was used longest ago goes first",
    placeholder: "SIZE",
    schema: sizeBytes(1),
    fallback: null,
    fallbackText: "16GiB",
  }),
  prefixCache: triStateFlag({
    group,
    help: "rows of prompts that were prefilled are kept for prompts that begin alike",
    fallbackText: "on",
  }),
  calibration: valueFlag({
    group,
    help: "file that calibrate made for this model, which loki needs",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "for the default model the one that comes with the program",
  }),
  predictor: valueFlag({
    group,
    help: "file that train made for this model, which tokenbutler needs",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: `${PREDICTOR_NAME} beside the model`,
  }),
  noPredictor: switchFlag({ group, help: "runs without a predictor, also where there is one" }),
  maxParameters: valueFlag({
    group,
    help: "parameters of the predictor at most, as a part of the model's",
    placeholder: "SHARE",
    schema: decimal(0, 1000),
    fallback: MAX_PARAMETER_SHARE,
  }),
  importanceKeys: valueFlag({
    group,
    help: "number format of the keys that loki and tokenbutler score rows by, f16 or int8",
    placeholder: "TYPE",
    schema: oneOf(IMPORTANCE_KEYS),
    fallback: "f16" as const,
  }),
} as const;

/**
 * What the command line says of every sequence's cache; reads the table file.
 *
 * @throws {UsageError} For flags that exclude each other, or a file that holds no table.
 * @throws {MisfitError} If the file cannot be read.
 */
export function kvRequest(settings: Settings<typeof kvFlags>): KvRequest {
  if (settings.kvTable !== null && settings.denseLayers !== null) {
    throw new UsageError("--kv-table and --dense-layers exclude each other: give one of them");
  }
  if (settings.kvTable !== null && settings.table !== null) {
    const flag = settings.table ? "--table" : "--no-table";
    throw new UsageError(`--kv-table and ${flag} exclude each other: give one of them`);
  }
  const said = {
    policy: settings.policy,
    sinks: settings.sinks,
    window: settings.window,
    budget: settings.budget,
    interval: settings.interval,
    neighbours: settings.neighbours,
    denseLayers: settings.denseLayers,
    fetch: settings.fetch,
    recallEvery: settings.recallEvery,
    table: settings.kvTable === null ? settings.table : readTableFile(settings.kvTable),
  };
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value !== null));
}

function readTableFile(path: string): KvTable {
  const source = `--kv-table ${path}`;
  const json = readTextFile(path, "--kv-table");
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (error) {
    throw new UsageError(`${source}: wanted JSON, got ${shown(json)}`, { cause: error });
  }
  try {
    return readTable(parsed);
  } catch (error) {
    if (!(error instanceof KvSettingsError)) throw error;
    const where = error.path.length === 0 ? "the table" : kvPathText(error.path);
    throw new UsageError(`${source}: ${where} ${error.rule}`, { cause: error });
  }
}

/**
 * Which predictor the command line wants.
 *
 * @throws {UsageError} For one that is named and not wanted.
 */
export function predictorOptions(
  { predictor, noPredictor, maxParameters }: Settings<
    Pick<typeof tierFlags, "predictor" | "noPredictor" | "maxParameters">
  >,
): Pick<EngineOptions, "predictor" | "maxParameters"> {
  if (predictor !== null && noPredictor) {
    throw new UsageError("--predictor and --no-predictor exclude each other");
  }
  return { predictor: noPredictor ? false : predictor, maxParameters };
}

/**
 * Where the command line lets rows lie.
 *
 * @throws {UsageError} For a size of a folder that is not named, or a folder that is not used.
 */
export function tierOptions(settings: Settings<typeof tierFlags>): TierOptions {
  if (settings.kvDiskSize !== null && settings.kvDisk === null) {
    throw new UsageError("--kv-disk-size needs --kv-disk, the folder that it is the size of");
  }
  if (settings.prefixDirSize !== null && settings.prefixDir === null) {
    throw new UsageError("--prefix-dir-size needs --prefix-dir, the folder that it is the size of");
  }
  if (settings.prefixDir !== null && settings.prefixCache === false) {
    throw new UsageError("--prefix-dir and --no-prefix-cache exclude each other");
  }
  return {
    deviceBytes: settings.kvDevice,
    hostBytes: settings.kvHost,
    diskDir: settings.kvDisk,
    diskBytes: settings.kvDiskSize,
    prefixDir: settings.prefixDir,
    ...(settings.prefixDirSize === null ? {} : { prefixBytes: settings.prefixDirSize }),
    prefixCache: settings.prefixCache ?? true,
  };
}
