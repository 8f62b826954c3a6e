/**
 * How does the engine compare with llama.cpp's Vulkan backend on the same adapter, with the same
 * model file and the same text? Both sides take turns; each is a process of its own, and only one
 * works at a time.
 *
 * Run, in `bench/llama_cpp`: `npm ci --ignore-scripts`, then `deno task compare` (README.md there).
 *
 * @module
 */
import { type Settings, valueFlag } from "../src/cli/flags.ts";
import { type CliIo, processIo } from "../src/cli/io.ts";
import { engineFlags, modelPath } from "../src/cli/model_flags.ts";
import { oneOf, text } from "../src/cli/values.ts";
import { calibrate } from "./_calibration.ts";
import { decodeTimed } from "./_decode.ts";
import { countFlag, defineBenchmark, integersFlag } from "./_define.ts";
import { Peer } from "./_peer.ts";
import { Report } from "./_report.ts";
import { summarize } from "./_stats.ts";
import { fill, openSubject, type Subject, textIds } from "./_subject.ts";
import { now, since } from "./_clock.ts";

const group = "Measurement";

const flags = {
  ...engineFlags,
  contexts: integersFlag("lengths of context at which decoding is compared", [512, 2048]),
  prefills: integersFlag("lengths of prompts that are compared", [512, 2048]),
  steps: countFlag("decode steps of a turn", 8),
  rounds: countFlag("turns of decoding of each side", 5),
  flashAttention: valueFlag({
    group,
    help: "llama.cpp's flash attention, off or on; off is the faster on llvmpipe",
    placeholder: "WORD",
    schema: oneOf(["off", "on"]),
    fallback: "off" as const,
  }),
  batch: countFlag("tokens that llama.cpp processes together, at most", 512),
  deviceIndex: valueFlag({
    group,
    help: "device of llama.cpp, as GGML_VK_VISIBLE_DEVICES numbers them",
    placeholder: "N",
    schema: text,
    fallback: "0",
  }),
};

/** Times of one side. */
interface Side {
  readonly wallMs: number[];
  /** Processor time of all of them together. */
  cpuMs: number;
}

/** Adds a case with the figures of both sides. */
function compare(report: Report, what: string, tokens: number, ours: Side, theirs: Side): void {
  const mine = summarize(ours.wallMs);
  const other = summarize(theirs.wallMs);
  report.add({
    what,
    tokens,
    oursMsMin: mine.min,
    oursMs: mine.median,
    oursMsP95: mine.p95,
    oursCpuMs: ours.cpuMs / mine.count,
    llamaMsMin: other.min,
    llamaMs: other.median,
    llamaMsP95: other.p95,
    llamaCpuMs: theirs.cpuMs / other.count,
    timesAsFast: other.median / mine.median,
    timesAsFastByLeast: other.min / mine.min,
    jsLoopMs: calibrate(3).wallMs,
  });
}

async function measure(settings: Settings<typeof flags>, io: CliIo): Promise<void> {
  const { contexts, prefills, steps } = settings;
  const lengths = [...new Set([...prefills, ...contexts])].sort((a, b) => a - b);
  const longest = lengths.at(-1)! + steps + 1;
  using subject = await openSubject(settings, io, 1, longest);
  using peer = Peer.start(settings.deviceIndex);
  const opened = await peer.ask({
    op: "open",
    model: modelPath(settings),
    context: longest + 8,
    batch: settings.batch,
    flashAttention: settings.flashAttention === "on",
  });
  for (const line of opened.log ?? []) io.stderr(`llama.cpp: ${line}\n`);
  const report = new Report(io, "compare-llama-cpp", {
    ...subject.common,
    llama: `${opened.release} ${opened.gpu} on ${opened.devices?.join()}`,
    gpuLayers: opened.gpuLayers ?? null,
    flashAttention: settings.flashAttention,
  });

  // Both sides process a short prompt first: kernels are compiled at their first use.
  await peer.ask({ op: "prefill", tokens: textIds(subject, 0, 40) });
  await peer.ask({ op: "decode", token: textIds(subject, 40, 1)[0]!, steps: 2 });
  await fill(subject, 0, textIds(subject, 0, Math.min(...lengths)));

  for (const length of lengths) {
    // What prefill leaves in both caches is what decoding goes on from.
    await comparePrefill(subject, peer, length, prefills.includes(length) ? report : null);
    if (contexts.includes(length)) await compareDecode(subject, peer, length, report, settings);
  }
  report.finish([
    "llamaCpuMs counts llama.cpp's host thread too, which looks at the device without a pause " +
    "while it waits.",
  ]);
}

/** @param report Null: the prompt is wanted, but not its time. */
async function comparePrefill(
  subject: Subject,
  peer: Peer,
  length: number,
  report: Report | null,
): Promise<void> {
  const tokens = textIds(subject, 0, length);
  const ours: Side = { wallMs: [], cpuMs: 0 };
  const once = async () => {
    const began = now();
    await fill(subject, 0, tokens);
    const { wallMs, cpuMs } = since(began);
    ours.wallMs.push(wallMs);
    ours.cpuMs += cpuMs;
  };
  // Ours before and after theirs: theirs takes minutes, in which the machine may change its pace.
  await once();
  const { ms, cpuMs } = await peer.ask({ op: "prefill", tokens });
  await once();
  if (report === null) return;
  compare(report, "prefill", length, ours, { wallMs: [ms!], cpuMs: cpuMs! });
}

async function compareDecode(
  subject: Subject,
  peer: Peer,
  context: number,
  report: Report,
  { rounds, steps }: Settings<typeof flags>,
): Promise<void> {
  const [token] = textIds(subject, context, 1);
  const row = { slot: 0, position: context, token: token! };
  const decode = decodeTimed(subject, [row], steps);
  const ours: Side = { wallMs: decode.stepMs, cpuMs: 0 };
  const theirs: Side = { wallMs: [], cpuMs: 0 };
  await decode.run();
  decode.stepMs.length = 0;
  await peer.ask({ op: "decode", token: token!, steps: 1 });
  for (let round = 0; round < rounds; round++) {
    const began = now();
    await decode.run();
    ours.cpuMs += since(began).cpuMs;
    const { stepMs, cpuMs } = await peer.ask({ op: "decode", token: token!, steps });
    theirs.wallMs.push(...stepMs!);
    theirs.cpuMs += cpuMs!;
  }
  compare(report, "decode", context, ours, theirs);
}

const benchmark = defineBenchmark({
  name: "compare-llama-cpp",
  summary: "the engine and llama.cpp's Vulkan backend on the same adapter, in turns",
  flags,
  measure,
});

if (import.meta.main) Deno.exit(await benchmark.run(Deno.args, processIo()));
