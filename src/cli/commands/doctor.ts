/** `doctor`: what this machine has, and whether it works. @module */
import { availableHostMemory, softwareCacheBytes } from "../../engine/host_memory.ts";
import { DEFAULT_MODEL } from "../../assets.ts";
import { type DeviceCaps, openDevice } from "../../gpu/device.ts";
import { Kernels } from "../../gpu/kernels.ts";
import { contextLimit, selectPlan } from "../../gpu/plan.ts";
import { selfTest } from "../../gpu/self_test.ts";
import { sha256OfFile } from "../../model/fingerprint.ts";
import { openModel } from "../../model/open.ts";
import { defineCommand } from "../command.ts";
import { type Settings, switchFlag } from "../flags.ts";
import { wrap } from "../help.ts";
import { type CliIo, EXIT } from "../io.ts";
import { bytesText, memoryPlan } from "../memory_plan.ts";
import { maxSeqsFlag, memoryFlags, modelFlag, modelPath } from "../model_flags.ts";
import { progressBar } from "../progress.ts";
import { versionText } from "../version.ts";

const flags = {
  ...modelFlag,
  ...memoryFlags,
  maxSeqs: maxSeqsFlag(8),
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
    await report.section("Memory plan", () => memorySection(report, settings, caps));
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

async function memorySection(
  report: Report,
  settings: DoctorSettings,
  caps: DeviceCaps | undefined,
): Promise<void> {
  const source = await openModel(modelPath(settings));
  try {
    const { config } = source;
    const plan = memoryPlan(source, {
      kvType: settings.kvType,
      contextLength: settings.context ?? config.contextLength,
      numSlots: settings.maxSeqs,
      ...(caps?.software
        ? { mostBytes: softwareCacheBytes(availableHostMemory(), source.sizeBytes) }
        : {}),
    }, {
      maxBindingSize: caps?.maxBindingSize ?? USUAL_BINDING_BYTES,
      contextLimit: caps === undefined ? Infinity : contextLimit(caps, selectPlan(caps), config),
    });
    report.row("model", `${config.name} (${config.architecture})`);
    report.row("weights", bytesText(plan.weightsBytes));
    report.row("KV cache, one token", `${bytesText(plan.kvBytesPerToken)} (${settings.kvType})`);
    report.row("context", `${plan.contextLength} tokens, trained ${config.contextLength}`);
    report.row("KV cache", `${bytesText(plan.kvBytes)} for ${settings.maxSeqs} sequences of that`);
    report.row("weights and KV cache", bytesText(plan.weightsBytes + plan.kvBytes));
    report.row("largest context", `${plan.largestContext} tokens, by the adapter's limits`);
    for (const note of plan.notes) report.row("note", note);
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
