/**
 * Program of its own: loads the model named by its argument in a worker, as the product does, and
 * prints how much memory the process had at most meanwhile and how much it has afterwards.
 *
 * @module
 */
import { startEngine } from "../../src/engine/start.ts";
import { DEFAULT_CACHE } from "../../src/engine/types.ts";

/** What is printed, as JSON. Bytes. */
export interface LoadProbe {
  readonly before: number;
  readonly most: number;
  readonly after: number;
  readonly samples: number;
}

const SAMPLE_MS = 5;
/** For memory that was freed at the very end to go. */
const SETTLE_MS = 500;

if (import.meta.main) {
  const rss = () => Deno.memoryUsage().rss;
  const before = rss();
  let most = before;
  let samples = 0;
  const timer = setInterval(() => {
    most = Math.max(most, rss());
    samples++;
  }, SAMPLE_MS);
  const engine = await startEngine({
    modelPath: Deno.args[0]!,
    contextLength: 2048,
    maxSequences: 1,
    kvType: "f16",
    prefillChunk: 64,
    kernelOverrides: {},
    ...DEFAULT_CACHE,
  });
  clearInterval(timer);
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  const probe: LoadProbe = { before, most, after: rss(), samples };
  console.log(JSON.stringify(probe));
  // As the product ends: a driver that is torn down at the end of a process can crash it.
  await engine.settle();
  Deno.exit();
}
