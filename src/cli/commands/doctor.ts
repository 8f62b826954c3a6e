/** `doctor`: what this machine has, and whether it works. @module */
import { DEFAULT_MODEL } from "../../assets.ts";
import { findCalibration, readCalibration } from "../../butler/calibration/file.ts";
import { findPredictor, readPredictor, type StoredPredictor } from "../../butler/predictor/file.ts";
import { parameterShare } from "../../butler/predictor/predictor.ts";
import { parameterCount, type PredictorShape } from "../../butler/predictor/shape.ts";
import { type KvSettings, resolveKv } from "../../butler/settings.ts";
import {
  availableHostMemory,
  softwareCacheBytes,
  spareDeviceBytes,
} from "../../engine/host_memory.ts";
import { diskBytesOf, hostBytesOf } from "../../engine/open_store.ts";
import { type DeviceCaps, openDevice } from "../../gpu/device.ts";
import { Kernels } from "../../gpu/kernels.ts";
import { contextLimit, selectPlan } from "../../gpu/plan.ts";
import { selfTest } from "../../gpu/self_test.ts";
import { sha256OfFile } from "../../model/fingerprint.ts";
import { DeviceTier, type DeviceTierOptions, type SlabPlan } from "../../kv/device_tier.ts";
import { openModel } from "../../model/open.ts";
import type { ModelSource } from "../../model/types.ts";
import { defineCommand } from "../command.ts";
import { type Settings, switchFlag } from "../flags.ts";
import { wrap } from "../help.ts";
import { kvFlags, kvRequest, predictorOptions, tierFlags, tierOptions } from "../kv_flags.ts";
import { type CliIo, EXIT } from "../io.ts";
import { bytesText, memoryPlan } from "../memory_plan.ts";
import { maxSeqsFlag, memoryFlags, modelFlag, modelPath } from "../model_flags.ts";
import { progressBar } from "../progress.ts";
import { type TierPlan, tierPlan } from "../tier_plan.ts";
import { versionText } from "../version.ts";

const flags = {
  ...modelFlag,
  ...memoryFlags,
  maxSeqs: maxSeqsFlag(8),
  ...kvFlags,
  ...tierFlags,
  quick: switchFlag({
    group: "Checks",
    help: "leaves out the checksum of the weights file and the self-test",
  }),
} as const;

type DoctorSettings = Settings<typeof flags>;

/** The binding size that a WebGPU device is sure to have; stands in when there is no adapter. */
const USUAL_BINDING_BYTES = 128 * 2 ** 20;

export const command = defineCommand({
  name: "doctor",
  summary: "checks the adapter, the memory, the weights file and the kernels",
  usage: ["doctor [flags]"],
  notes: ["The exit code is 1 when something does not work."],
  flags,
  async run(settings, io) {
    const report = new Report(io);
    report.note(`${(await versionText()).trim().split("\n").slice(0, 2).join(", ")}`);
    const caps = await report.section("Adapter", () => adapterSection(report));
    const tried = await report.section("Memory plan", () => memorySection(report, settings, caps));
    await report.section("Tier plan", () => tierSection(report, settings, caps, tried ?? null));
    if (!settings.quick) {
      await report.section("Weights file", () => weightsSection(report, settings, io));
      if (caps !== undefined) await report.section("Self-test", () => selfTestSection(report));
    }
    io.stdout(report.failed ? "\nSomething does not work: see above.\n" : "\nAll is well.\n");
    return report.failed ? EXIT.failure : EXIT.ok;
  },
});

/** Collects lines; a section that throws does not keep the next one from being tried. */
class Report {
  failed = false;

  constructor(private readonly io: CliIo) {}

  async section<T>(title: string, body: () => Promise<T>): Promise<T | undefined> {
    this.io.stdout(`\n${title}\n`);
    try {
      return await body();
    } catch (error) {
      this.problem(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  row(name: string, value: string): void {
    this.io.stdout(`  ${name.padEnd(28)} ${wrap(value, 31)}\n`);
  }

  note(text: string): void {
    this.io.stdout(`${text}\n`);
  }

  problem(text: string): void {
    this.failed = true;
    this.io.stdout(`  ${wrap(`PROBLEM: ${text}`, 4)}\n`);
  }
}

async function adapterSection(report: Report): Promise<DeviceCaps> {
  const { device, caps } = await openDevice();
  try {
    report.row("device", caps.description || "unnamed");
    report.row("vendor", caps.vendor || "unknown");
    report.row("kind", caps.software ? "software (runs on the CPU)" : "hardware");
    report.row("features", [...device.features].sort().join(", ") || "none");
    report.row(
      "subgroups",
      caps.subgroups ? `yes, ${caps.subgroupMin} to ${caps.subgroupMax} lanes` : "no",
    );
    report.row("largest buffer", bytesText(caps.maxBufferSize));
    report.row("largest binding", bytesText(caps.maxBindingSize));
    report.row("workgroup", `${caps.maxWorkgroupSize} invocations`);
    report.row("workgroup memory", bytesText(caps.maxWorkgroupStorage));
    report.row("missing", missing(caps));
    return caps;
  } finally {
    device.destroy();
  }
}

function missing(caps: DeviceCaps): string {
  const wanted = [
    caps.subgroups ? "" : "subgroups (sums go through workgroup memory, slower)",
    caps.f16 ? "" : "shader-f16 (16-bit values are unpacked, slower)",
    caps.timestamps ? "" : "timestamp-query (bench cannot time single kernels)",
    caps.software ? "a GPU (a CPU plays one; install the driver of the GPU, if there is one)" : "",
  ].filter((text) => text !== "");
  return wanted.length === 0 ? "nothing" : wanted.join("; ");
}

/** What the memory of a model is planned from. */
function planned(
  source: ModelSource,
  settings: DoctorSettings,
  caps: DeviceCaps | undefined,
): { options: DeviceTierOptions; limits: { maxBindingSize: number; contextLimit: number } } {
  const { config, sizeBytes } = source;
  return {
    options: {
      kvType: settings.kvType,
      contextLength: settings.context ?? config.contextLength,
      numSlots: settings.maxSeqs,
      deviceBytes: settings.kvDevice,
      spareBytes: spareDeviceBytes(sizeBytes),
      ...(caps?.software
        ? { mostBytes: softwareCacheBytes(availableHostMemory(), sizeBytes) }
        : {}),
    },
    limits: {
      maxBindingSize: caps?.maxBindingSize ?? USUAL_BINDING_BYTES,
      contextLimit: caps === undefined ? Infinity : contextLimit(caps, selectPlan(caps), config),
    },
  };
}

/** Tries the cache of an engine; null where nothing would be refused, since it is host memory. */
async function triedSlabs(
  { config }: ModelSource,
  { options, limits }: ReturnType<typeof planned>,
  known: DeviceCaps | undefined,
): Promise<SlabPlan | null> {
  if (known === undefined || known.software) return null;
  const contextLength = Math.min(options.contextLength, limits.contextLimit);
  const { device, caps } = await openDevice();
  try {
    return await DeviceTier.tryPlan(new Kernels(device, caps), config, {
      ...options,
      contextLength,
    });
  } finally {
    device.destroy();
  }
}

/** @returns What the device has room for, where that was tried. */
async function memorySection(
  report: Report,
  settings: DoctorSettings,
  caps: DeviceCaps | undefined,
): Promise<SlabPlan | null> {
  const source = await openModel(modelPath(settings));
  try {
    const { config } = source;
    const wanted = planned(source, settings, caps);
    const tried = await triedSlabs(source, wanted, caps);
    const plan = memoryPlan(source, wanted.options, wanted.limits, tried);
    report.row("model", `${config.name} (${config.architecture})`);
    report.row("weights", bytesText(plan.weightsBytes));
    report.row("KV cache, one token", `${bytesText(plan.kvBytesPerToken)} (${settings.kvType})`);
    report.row("context", `${plan.contextLength} tokens, trained ${config.contextLength}`);
    report.row("KV cache", `${bytesText(plan.kvBytes)} for ${settings.maxSeqs} sequences of that`);
    report.row("weights and KV cache", bytesText(plan.weightsBytes + plan.kvBytes));
    report.row("largest context", `${plan.largestContext} tokens, by the adapter's limits`);
    for (const note of plan.notes) report.row("note", note);
    return tried;
  } finally {
    source.close();
  }
}

/** Where the rows of one sequence as long as the context lie. */
async function tierSection(
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

async function weightsSection(
  report: Report,
  settings: DoctorSettings,
  io: CliIo,
): Promise<void> {
  if (settings.model !== null) {
    report.row("checksum", "only that of the default model is known: not checked");
    return;
  }
  const bar = progressBar(io, "Checking the weights file", 100);
  try {
    const sum = await sha256OfFile(
      modelPath(settings),
      (fraction) => bar.update(Math.round(fraction * 100)),
    );
    bar.stop();
    report.row("sha256", sum);
    if (sum === DEFAULT_MODEL.sha256) report.row("checksum", "as it should be");
    else {
      report.problem(
        `the file should have sha256 ${DEFAULT_MODEL.sha256}: it is damaged or replaced; ` +
          `fetch ${DEFAULT_MODEL.path} again (git checkout)`,
      );
    }
  } finally {
    bar.stop();
  }
}

async function selfTestSection(report: Report): Promise<void> {
  const { device, caps } = await openDevice();
  try {
    for (const check of await selfTest(new Kernels(device, caps), selectPlan(caps))) {
      if (check.ok) report.row(check.name, check.detail);
      else report.problem(`${check.name}: ${check.detail}`);
    }
  } finally {
    device.destroy();
  }
}
