/** `doctor`: what this machine has, and whether it works. @module */
import { DEFAULT_MODEL } from "../../assets.ts";
import { type DeviceCaps, openDevice } from "../../gpu/device.ts";
import { Kernels } from "../../gpu/kernels.ts";
import { selectPlan } from "../../gpu/plan.ts";
import { selfTest } from "../../gpu/self_test.ts";
import { sha256OfFile } from "../../model/fingerprint.ts";
import { DeviceTier, type SlabPlan } from "../../kv/device_tier.ts";
import { openModel } from "../../model/open.ts";
import type { ModelSource } from "../../model/types.ts";
import { defineCommand } from "../command.ts";
import { type CliIo, EXIT } from "../io.ts";
import { bytesText, memoryPlan } from "../memory_plan.ts";
import { modelPath } from "../model_flags.ts";
import { progressBar } from "../progress.ts";
import { VERSIONS } from "../version.ts";
import { Report } from "./doctor/report.ts";
import { type DoctorSettings, flags, planned } from "./doctor/settings.ts";
import { tierSection } from "./doctor/tiers.ts";

export const command = defineCommand({
  name: "doctor",
  summary: "checks the adapter, the memory, the weights file and the kernels",
  usage: ["doctor [flags]"],
  notes: ["The exit code is 1 when something does not work."],
  flags,
  async run(settings, io) {
    const report = new Report(io);
    report.note(VERSIONS.join(", "));
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
