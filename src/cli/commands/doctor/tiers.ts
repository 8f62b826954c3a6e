/** The part of `doctor` that says where the rows of a sequence lie. @module */
import { findCalibration, readCalibration } from "../../../butler/calibration/file.ts";
import {
  findPredictor,
  readPredictor,
  type StoredPredictor,
} from "../../../butler/predictor/file.ts";
import { parameterShare } from "../../../butler/predictor/predictor.ts";
import { parameterCount, type PredictorShape } from "../../../butler/predictor/shape.ts";
import { type KvSettings, resolveKv } from "../../../butler/settings.ts";
import { diskBytesOf, hostBytesOf } from "../../../engine/open_store.ts";
import type { DeviceCaps } from "../../../gpu/device.ts";
import type { SlabPlan } from "../../../kv/device_tier.ts";
import { openModel } from "../../../model/open.ts";
import type { ModelSource } from "../../../model/types.ts";
import { kvRequest, predictorOptions, tierOptions } from "../../kv_flags.ts";
import { bytesText } from "../../memory_plan.ts";
import { modelPath } from "../../model_flags.ts";
import { type TierPlan, tierPlan } from "../../tier_plan.ts";
import type { Report } from "./report.ts";
import { type DoctorSettings, planned } from "./settings.ts";

/** Where the rows of one sequence as long as the context lie. */
export async function tierSection(
  report: Report,
  settings: DoctorSettings,
  caps: DeviceCaps | undefined,
  tried: SlabPlan | null,
): Promise<void> {
  const source = await openModel(modelPath(settings));
  try {
    const { options, limits } = planned(source, settings, caps);
    const contextLength = Math.min(options.contextLength, limits.contextLimit);
    const request = kvRequest(settings);
    const tiers = tierOptions(settings);
    const canProject = await hasCalibration(source, settings);
    const predictor = await storedPredictor(source, settings);
    const canPredict = predictor !== null;
    const budgetTable = predictor?.notes.budgets ?? null;
    const decide = (fits: boolean) =>
      resolveKv(request, source.config, { fits, canProject, canPredict, budgetTable });
    const plan = tierPlan(
      source.config,
      { ...options, contextLength },
      { hostBytes: hostBytesOf(tiers), diskBytes: diskBytesOf(tiers) },
      (fits) => decide(fits).settings,
      limits.maxBindingSize,
      settings.importanceKeys,
      tried,
    );
    const { settings: decided, notes } = decide(plan.whole);
    report.row(
      "predictor",
      predictor === null
        ? `none: ${canProject ? "loki stands in" : "nothing chooses rows by itself"}`
        : predictorText(predictor.predictor.shape, source.numParameters),
    );
    report.row("sequence", `${contextLength} tokens, ${policyText(decided)}`);
    if (plan.refusal !== null) report.row("note", plan.refusal);
    else reportTiers(report, plan);
    report.row(
      "on the device as a whole",
      `up to ${Math.min(contextLength, plan.wholeRows)} tokens`,
    );
    report.row("longest that runs", lengthText(plan, contextLength));
    for (const note of notes) report.row("note", note);
    if (plan.longestRows < 1) {
      report.problem("there is no room for a page of keys and values: give --kv-device more");
    }
    for (const [flag, path] of [["--kv-disk", tiers.diskDir], ["--prefix-dir", tiers.prefixDir]]) {
      if (isFile(path)) report.problem(`${flag} ${path}: there is a file in its place`);
    }
  } finally {
    source.close();
  }
}

function isFile(path: string | null | undefined): boolean {
  try {
    return path !== null && path !== undefined && !Deno.statSync(path).isDirectory;
  } catch {
    // What is not there yet is made.
    return false;
  }
}

async function hasCalibration(source: ModelSource, settings: DoctorSettings): Promise<boolean> {
  const path = settings.calibration ?? findCalibration(modelPath(settings));
  if (path === null) return false;
  readCalibration(path, { ...source.config, fingerprint: await source.fingerprint() });
  return true;
}

async function storedPredictor(
  source: ModelSource,
  settings: DoctorSettings,
): Promise<StoredPredictor | null> {
  const { predictor: named, maxParameters } = predictorOptions(settings);
  const path = named ?? findPredictor(modelPath(settings));
  if (path === null || path === false) return null;
  const { numLayers, hiddenSize, numHeads, numKvHeads, headDim } = source.config;
  const fingerprint = await source.fingerprint();
  const model = { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim };
  return readPredictor(path, model, maxParameters * source.numParameters);
}

function predictorText(shape: PredictorShape, modelParameters: number): string {
  const share = 100 * parameterShare(shape, modelParameters);
  return `${parameterCount(shape)} parameters, ${share.toFixed(2)} % of the model's; ` +
    `a producer each ${shape.stride} layers`;
}

function policyText({ policy, sinks, window, budget, budgetTable }: KvSettings): string {
  if (policy === "dense") return policy;
  const rows = "rows" in budget
    ? `${budget.rows} rows`
    : `up to ${budget.share * 100} % of all rows`;
  const mean = budgetTable === undefined ? "" : " in the mean, by the predictor's table";
  return `${policy}: ${sinks} sinks, a window of ${window}, a budget of ${rows}${mean}`;
}

function reportTiers(report: Report, { whole, device, beside, host, disk }: TierPlan): void {
  const { capacity, all, dense, sinks, window, slots } = device;
  const parts = (named: Readonly<Record<string, number>>) =>
    Object.entries(named).filter(([, bytes]) => bytes > 0)
      .map(([name, bytes]) => `${name} ${bytesText(bytes)}`).join(", ") || "nothing";
  const used = all + dense + sinks + window + slots;
  const inside = whole ? "all rows" : parts({ "dense layers": dense, sinks, window, slots });
  report.row("device", `${bytesText(used)} of ${bytesText(capacity)}: ${inside}`);
  report.row(
    "beside that",
    parts({
      "importance keys": beside.importance,
      "tables and lists": beside.maps,
      scores: beside.scores,
      staging: beside.staging,
    }),
  );
  report.row("host", `${bytesText(host.used)} of ${bytesText(host.capacity)}`);
  report.row(
    "disk",
    disk.capacity === 0
      ? "none (--kv-disk)"
      : `${bytesText(disk.used)} of ${bytesText(disk.capacity)}`,
  );
}

function lengthText({ longestRows, wholeRows }: TierPlan, contextLength: number): string {
  const most = Math.min(contextLength, longestRows);
  return most > wholeRows
    ? `${most} tokens, with what does not fit the device on host and disk`
    : `${most} tokens`;
}
