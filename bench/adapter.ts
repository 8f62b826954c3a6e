/**
 * What can the adapter do at best: read memory, multiply stored matrices with one row and with
 * many? Many variants are tried in turns, the engine's own kernels among them; the best of a kind
 * is the adapter's rate.
 *
 * Run: `./run bench adapter`
 *
 * @module
 */
import type { Settings } from "../src/cli/flags.ts";
import type { CliIo } from "../src/cli/io.ts";
import { openDevice } from "../src/gpu/device.ts";
import { Kernels } from "../src/gpu/kernels.ts";
import { Readback } from "../src/gpu/readback.ts";
import { countFlag, defineBenchmark } from "./_define.ts";
import { DEFAULT_SHAPES, measureRates, ratesNotes } from "./_rates.ts";
import { Report } from "./_report.ts";

const flags = { rounds: countFlag("rounds over all variants", 15) };

async function measure({ rounds }: Settings<typeof flags>, io: CliIo): Promise<void> {
  const { device, caps } = await openDevice();
  using readback = await Readback.create(device, 16);
  const report = new Report(io, "adapter", { device: caps.description });
  const kernels = new Kernels(device, caps);
  const rates = await measureRates(kernels, readback, rounds, DEFAULT_SHAPES);
  for (const entry of rates.cases) report.add(entry);
  report.finish(ratesNotes(rates));
}

export const { command, run } = defineBenchmark({
  name: "adapter",
  summary: "what the adapter can do at best: memory and matrix products",
  flags,
  measure,
});
