/** What evaluations have in common: flags, the engine, what figures rest on. @module */
import { KvSettingsError, POLICY_NAMES, resolveKv } from "../../../butler/settings.ts";
import type { KvRequest, KvSettings } from "../../../butler/settings_types.ts";
import type { createEngineParts, EngineParts } from "../../../engine/create.ts";
import { DEFAULT_CACHE, DEFAULT_TIERS, type EngineInfo } from "../../../engine/types.ts";
import type { Origin } from "../../../eval/results.ts";
import { kvBytesPerToken } from "../../../kv/device_tier.ts";
import { openModel } from "../../../model/open.ts";
import { CALIBRATION_NAME, PREDICTOR_NAME } from "../../../model/side_files.ts";
import { commit } from "../../../report/commit.ts";
import type { Tokenizer } from "../../../tokenizer/types.ts";
import { CommandError } from "../../command.ts";
import { type Settings, switchFlag, UsageError, valueFlag } from "../../flags.ts";
import { engineFlags } from "../../model_flags.ts";
import { openTextSide } from "../../text_side.ts";
import { integer, text, wordList } from "../../values.ts";

/** Group of the flags in `--help`. */
export const group = "Evaluation";

const { model, kernel, kvType, calibration, predictor, maxParameters } = engineFlags;

/** Flags of every evaluation. */
export const evalFlags = {
  policies: valueFlag({
    group,
    help: "policies to compare with dense attention",
    placeholder: "NAME,NAME",
    schema: wordList(POLICY_NAMES),
    fallback: POLICY_NAMES.filter((name) => name !== "dense"),
    fallbackText: "all",
  }),
  sinks: valueFlag({
    group,
    help: "sinks",
    placeholder: "N",
    schema: integer(0, 4096),
    fallback: 4,
  }),
  window: valueFlag({
    group,
    help: "most recent rows",
    placeholder: "N",
    schema: integer(1, 65_536),
    fallback: 32,
  }),
  out: valueFlag({
    group: "Output",
    help: "JSON file for the figures; what is in it already is not measured again",
    placeholder: "FILE",
    short: "o",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
  json: switchFlag({ group: "Output", help: "prints the figures as one line of JSON" }),
  model,
  kvType,
  calibration,
  predictor,
  maxParameters,
  kernel,
} as const;

/** Settings of them. */
export type EvalSettings = Settings<typeof evalFlags>;

/** Makes the engine; tests put one in its place that they close. */
export type OpenParts = typeof createEngineParts;

/** Windows that have room at the same time. */
const SEQUENCES = 8;

/**
 * An engine for rows that are decoded many at a time.
 *
 * @param tokens Of a window, at most.
 * @throws {CommandError} If memory does not allow such windows.
 */
export async function openRows(
  settings: EvalSettings,
  open: OpenParts,
  path: string,
  tokens: number,
  batch: number,
): Promise<EngineParts> {
  const source = await openModel(path);
  source.close();
  const parts = await open({
    modelPath: path,
    contextLength: tokens,
    maxSequences: batch,
    kvType: settings.kvType,
    prefillChunk: Math.min(256, tokens),
    ...DEFAULT_CACHE,
    // Slots that show the same rows need no room of their own.
    tiers: {
      ...DEFAULT_TIERS,
      prefixCache: false,
      deviceBytes: SEQUENCES * (tokens + 64) * kvBytesPerToken(source.config, settings.kvType),
    },
    calibration: settings.calibration,
    predictor: settings.predictor,
    maxParameters: settings.maxParameters,
    kernelOverrides: Object.fromEntries(settings.kernel),
  }, () => {});
  if (parts.info.contextLength >= tokens) return parts;
  parts.dispose();
  throw new CommandError(`memory allows windows of ${parts.info.contextLength} tokens: take fewer`);
}

/** What figures of an evaluation rest on. */
export async function originOf(
  evaluation: string,
  settings: Omit<EvalSettings, "policies">,
  path: string,
  info: EngineInfo,
  more: Origin,
): Promise<Origin> {
  return {
    evaluation,
    device: info.adapter.description,
    model: info.model.name,
    fingerprint: info.model.fingerprint,
    kv: info.kv.type,
    predictor: await digestOf(settings.predictor, path, PREDICTOR_NAME),
    calibration: await digestOf(settings.calibration, path, CALIBRATION_NAME),
    sinks: settings.sinks,
    window: settings.window,
    ...more,
    commit: commit(),
  };
}

/**
 * Settings for requests that fit the device.
 *
 * @throws {CommandError} If a policy lacks what it needs.
 */
export function resolved(request: KvRequest, info: EngineInfo): KvSettings {
  const { canProject, canPredict, budgetTable } = info.kv;
  try {
    return resolveKv(request, info.model, { fits: true, canProject, canPredict, budgetTable })
      .settings;
  } catch (error) {
    if (!(error instanceof KvSettingsError)) throw error;
    throw new CommandError(`${request.policy}: ${error.message}`);
  }
}

/** Text to ids, and the ids that begin a text. @throws {CommandError} Without a tokenizer. */
export async function openEncoder(path: string): Promise<{
  readonly tokenizer: Tokenizer;
  readonly encode: (piece: string) => number[];
  readonly bos: readonly number[];
}> {
  const { tokenizer } = await openTextSide(path, "text");
  if (tokenizer === undefined) {
    throw new CommandError("this model has no tokenizer: it cannot read the text");
  }
  const encode = (piece: string) => tokenizer.encode(piece, { parseSpecial: false, addBos: false });
  const bos = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  return { tokenizer, encode, bos };
}

/** Whole numbers with commas between them. @throws {UsageError} For anything else. */
export function numbers(flag: string, list: string): number[] {
  if (!/^\d{1,7}(,\d{1,7})*$/.test(list)) {
    throw new UsageError(`${flag} wants whole numbers with commas between them`);
  }
  return list.split(",").map(Number);
}

async function digestOf(
  named: string | null,
  modelFile: string,
  beside: string,
): Promise<string | null> {
  const path = named ?? modelFile.replace(/[^/\\]*$/, beside);
  try {
    const bytes = await crypto.subtle.digest("SHA-256", await Deno.readFile(path));
    return new Uint8Array(bytes).toHex().slice(0, 12);
  } catch {
    return null;
  }
}
