/** How fast an adapter takes large writes from the host. @module */
import type { Kernels } from "../src/gpu/kernels.ts";
import type { Readback } from "../src/gpu/readback.ts";
import { alternate } from "./_timing.ts";

/** Bytes of one write; two buffers take turns, so that one can be used while the other is filled. */
const WRITE_BYTES = 16 * 2 ** 20;
const WRITES = 4;

/** GB/s of large double-buffered writes: the best of some rounds. */
export async function uploadRate(
  kernels: Kernels,
  readback: Readback,
  rounds: number,
): Promise<number> {
  const { device } = kernels;
  const data = new Uint8Array(WRITE_BYTES).map((_, index) => index % 251);
  const buffers = [0, 1].map((index) => kernels.storage(`upload ${index}`, WRITE_BYTES));
  const run = async () => {
    for (let i = 0; i < WRITES; i++) {
      device.queue.writeBuffer(buffers[i % 2]!, 0, data);
      // A copy that reads it: written memory is there when something used it.
      const encoder = device.createCommandEncoder({ label: "upload" });
      encoder.copyBufferToBuffer(buffers[i % 2]!, 0, readback.target, 0, 16);
      device.queue.submit([encoder.finish()]);
    }
    await readback.read(16);
  };
  const timed = { repeats: 1, run };
  await alternate([timed], 2);
  const [times] = await alternate([timed], rounds);
  for (const buffer of buffers) buffer.destroy();
  return WRITES * WRITE_BYTES / Math.min(...times!.wallMs) / 1e6;
}
