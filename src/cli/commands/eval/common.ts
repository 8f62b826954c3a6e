/** What the evaluations share: flags, windows of text, an engine in this isolate, origins. @module */
import { defaultCalibrationPath } from "../../../butler/calibration/file.ts";
import { cutWindows } from "../../../butler/calibration/windows.ts";
import {
  type KvSettings,
  KvSettingsError,
  type KvSituation,
  POLICY_NAMES,
  type PolicyName,
} from "../../../butler/settings.ts";
import { defaultPredictorPath } from "../../../butler/predictor/file.ts";
import type { createEngineParts, EngineParts } from "../../../engine/create.ts";
import { DEFAULT_CACHE, DEFAULT_TIERS, type EngineInfo } from "../../../engine/types.ts";
import { digestOfFile, digestOfText } from "../../../eval/digests.ts";
import type { Origin } from "../../../eval/results.ts";
import { kvBytesPerToken } from "../../../kv/device_tier.ts";
import { openModel } from "../../../model/open.ts";
import { commit } from "../../../report/commit.ts";
import type { Tokenizer } from "../../../tokenizer/types.ts";
import { splitText } from "../../../train/samples.ts";
import { MisfitError } from "../../command.ts";
import { listFlag, type Settings, shown, switchFlag, UsageError, valueFlag } from "../../flags.ts";
import { readTextFile } from "../../inputs.ts";
import type { CliIo } from "../../io.ts";
import { predictorOptions } from "../../kv_flags.ts";
import { engineFlags, modelPath } from "../../model_flags.ts";
import { openTextSide } from "../../text_side.ts";
import { integer, oneOf, text, wordList } from "../../values.ts";

const group = "Evaluation";
const { model, kernel, kvType, calibration, predictor, noPredictor, maxParameters } = engineFlags;
const { importanceKeys } = engineFlags;

/** `--text`, and which part of it. */
export const textFlags = {
  text: listFlag({ group, help: "a UTF-8 file", placeholder: "FILE", short: "f", schema: text }),
  part: valueFlag({
    group,
    help: "which part of each text: unseen, its last twentieth, which train never sees; or all",
    placeholder: "PART",
    schema: oneOf(["unseen", "all"]),
    fallback: "unseen" as const,
  }),
} as const;

/** What a selection is made up of, and how many rows are decoded together. */
export const rowFlags = {
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
} as const;

/** Rows of a step. */
export const batchFlag = {
  batch: valueFlag({
    group,
    help: "rows of a window that are decoded in one pass",
    placeholder: "N",
    schema: integer(1, 512),
    fallback: 64,
  }),
} as const;

/** Where figures go, and the model. */
export const outputFlags = {
  out: valueFlag({
    group: "Output",
    help: "JSON file for the figures; what is in it already is not measured again",
    placeholder: "FILE",
    short: "o",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
  svg: valueFlag({
    group: "Output",
    help: "file for a picture of them",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
  json: switchFlag({ group: "Output", help: "prints the figures as one line of JSON" }),
} as const;

/** The model and its files. */
export const subjectFlags = {
  model,
  kvType,
  calibration,
  predictor,
  noPredictor,
  maxParameters,
  importanceKeys,
  kernel,
} as const;

/** `--policies`. */
export function policiesFlag(help: string, names: readonly PolicyName[]) {
  return {
    policies: valueFlag({
      group,
      help,
      placeholder: "NAME,NAME",
      schema: wordList(names),
      fallback: null,
      fallbackText: "all that the model has files for",
    }),
  } as const;
}

/** Policies to compare with dense attention. */
export const SELECTING = POLICY_NAMES.filter((name) => name !== "dense");

/** What {@linkcode subjectFlags} say. */
export type Subject = Settings<typeof subjectFlags>;

/** Makes the engine; tests put one in its place that they close. */
export type OpenParts = typeof createEngineParts;

/** What policies of a running engine can rest on. */
export function situationOf({ kv }: EngineInfo): KvSituation {
  const { canProject, canPredict, budgetTable } = kv;
  return { fits: true, canProject, canPredict, budgetTable };
}

/**
 * Whether `tokenbutler` is measured with the predictor's table of budgets, without it, or both.
 *
 * @throws {UsageError} If the table is asked for and there is none.
 */
export function tablesOf(
  info: EngineInfo,
  wanted: "both" | "table" | "same" = "both",
): readonly boolean[] {
  const hasTable = info.kv.budgetTable !== null;
  if (wanted === "table" && !hasTable) {
    throw new UsageError("--budgets table: no predictor with a table of budgets is there");
  }
  if (!hasTable) return [false];
  return wanted === "both" ? [true, false] : [wanted === "table"];
}

/**
 * The policies that were named, or those of some that have what they need.
 *
 * @param named Null: nobody said.
 */
export function choosePolicies(
  named: readonly PolicyName[] | null,
  some: readonly PolicyName[],
  { kv }: EngineInfo,
  io: CliIo,
): readonly PolicyName[] {
  if (named !== null) return named;
  const lacks = some.filter((name) =>
    (name === "loki" && !kv.canProject) || (name === "tokenbutler" && !kv.canPredict)
  );
  for (const name of lacks) {
    const missing = name === "loki" ? "calibration (calibrate)" : "predictor (train)";
    io.stderr(`note: ${name} is left out: the model has no ${missing}\n`);
  }
  return some.filter((name) => !lacks.includes(name));
}

/** Settings of a policy; a command's error where it lacks what it needs. */
export function settingsFor(policy: PolicyName, resolve: () => KvSettings): KvSettings {
  try {
    return resolve();
  } catch (error) {
    if (!(error instanceof KvSettingsError)) throw error;
    throw new MisfitError(`${policy}: ${error.message}`);
  }
}

/** A text and windows of it. */
export interface TextWindows {
  readonly name: string;
  /** Of the whole text. */
  readonly digest: string;
  readonly windows: readonly (readonly number[])[];
}

/**
 * Cuts the texts that flags name into windows.
 *
 * @throws {MisfitError} If one of them is too short, or the model has no tokenizer.
 */
export async function readWindows(
  { text, part, windows: count, tokens }: Settings<typeof textFlags> & {
    readonly windows: number;
    readonly tokens: number;
  },
  path: string,
): Promise<TextWindows[]> {
  if (text.length === 0) throw new UsageError("--text is needed");
  const names = text.map(fileName);
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) {
    throw new UsageError(`--text: two files are called ${twice}: figures go by the name`);
  }
  const bodies = text.map((file) => readTextFile(file, "--text"));
  const tokenizer = await tokenizerOf(path);
  const encode = (piece: string) => tokenizer.encode(piece, { parseSpecial: false, addBos: false });
  const bos = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  const digests = await Promise.all(bodies.map(digestOfText));
  return text.map((file, index) => {
    const whole = bodies[index]!;
    const body = part === "all" ? whole : splitText(whole).unseen;
    const windows = cutWindows([body], encode, bos, { tokens: count * tokens, context: tokens })
      .filter((ids) => ids.length === tokens);
    if (windows.length === 0) {
      const where = part === "all" ? "" : "last twentieth ";
      throw new MisfitError(
        `${file}: its ${where}has no window of ${tokens} tokens: ` +
          "take --part all if training did not see it, or fewer --tokens",
      );
    }
    return { name: names[index]!, digest: digests[index]!, windows };
  });
}

/** The tokenizer of a model. @throws {MisfitError} If it has none. */
export async function tokenizerOf(path: string): Promise<Tokenizer> {
  const { tokenizer } = await openTextSide(path, "text");
  if (tokenizer !== undefined) return tokenizer;
  throw new MisfitError("this model has no tokenizer: it cannot read the text");
}

/** Sequences that have room of their own at the same time. */
const SEQUENCES = 8;

/**
 * An engine in this isolate for sequences of so many tokens; its notes are printed.
 *
 * @throws {MisfitError} If memory does not allow them.
 */
export async function openParts(
  subject: Subject,
  open: OpenParts,
  tokens: number,
  batch: number,
  io: CliIo,
): Promise<EngineParts> {
  const path = modelPath(subject);
  const source = await openModel(path);
  source.close();
  const parts = await open({
    modelPath: path,
    contextLength: tokens,
    maxSequences: batch,
    kvType: subject.kvType,
    prefillChunk: Math.min(256, tokens),
    ...DEFAULT_CACHE,
    // Slots that show the same rows need no room of their own.
    tiers: {
      ...DEFAULT_TIERS,
      prefixCache: false,
      deviceBytes: SEQUENCES * (tokens + 64) * kvBytesPerToken(source.config, subject.kvType),
    },
    calibration: subject.calibration,
    ...predictorOptions(subject),
    importanceKeys: subject.importanceKeys,
    kernelOverrides: Object.fromEntries(subject.kernel),
  }, () => {});
  for (const note of parts.info.notes) io.stderr(`note: ${note}\n`);
  if (parts.info.contextLength >= tokens) return parts;
  parts.dispose();
  throw new MisfitError(`memory allows windows of ${parts.info.contextLength} tokens: take fewer`);
}

/** What figures rest on, beside the evaluation's own settings. */
export async function originOf(
  evaluation: string,
  info: EngineInfo,
  subject: Subject,
): Promise<Origin> {
  const path = modelPath(subject);
  const { predictor } = predictorOptions(subject);
  const { canPredict, canProject } = info.kv;
  return {
    evaluation,
    device: info.adapter.description,
    model: info.model.name,
    fingerprint: info.model.fingerprint,
    kv: info.kv.type,
    importanceKeys: info.kv.importanceKeys,
    predictor: canPredict ? await digestOfFile(predictor || defaultPredictorPath(path)) : null,
    calibration: canProject
      ? await digestOfFile(subject.calibration ?? defaultCalibrationPath(path))
      : null,
    commit: commit(),
  };
}

/** The origin as a line. */
export function originLine(origin: Origin): string {
  return `${Object.entries(origin).map(([name, value]) => `${name} ${value}`).join(", ")}\n`;
}

/** Digests of texts by name, for a file of results. */
export function digestsOf(texts: readonly TextWindows[]): Record<string, string> {
  return Object.fromEntries(texts.map(({ name, digest }) => [name, digest]));
}

/** The last part of a path. */
export function fileName(path: string): string {
  return path.replace(/^.*[/\\]/, "");
}

/** Whole numbers with commas between them. */
export function numbers(flag: string, list: string): number[] {
  if (!/^\d{1,7}(,\d{1,7})*$/.test(list)) {
    throw new UsageError(
      `${flag}: wanted whole numbers below 10 million with commas between them, got ${shown(list)}`,
    );
  }
  return list.split(",").map(Number);
}

/** Shares of all rows, above 0 and at most 1, with commas between them. */
export function shares(flag: string, list: string): number[] {
  const found = list.split(",").map((word) => /^(1|0?\.\d{1,6})$/.test(word) ? Number(word) : 0);
  if (found.some((share) => share <= 0)) {
    throw new UsageError(`${flag} wants shares above 0, at most 1, with commas between them`);
  }
  return found;
}

/** Rows of all: counts as they are, shares (below 1, or with a point) of a length. */
export function rowsOf(flag: string, list: string, length: number): number[] {
  return list.split(",").map((word) => {
    if (/^[1-9]\d{0,6}$/.test(word)) return Number(word);
    if (/^(0?\.\d{1,6}|1\.0)$/.test(word) && Number(word) > 0) {
      return Math.round(Number(word) * length);
    }
    throw new UsageError(`${flag} wants counts (128) or shares (0.125) with commas between them`);
  });
}
