/**
 * The engine's own worker module, which can be hurt: `die` throws where no request is concerned,
 * `destroy` takes the device away, `hang` is a submission that never completes, `disk_full` lets no byte be written to a file, until `disk_free`.
 *
 * @module
 */
import type { WorkerScope } from "../../src/engine/worker_host.ts";

const devices: GPUDevice[] = [];
const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (descriptor) {
  const device = await requestDevice.call(this, descriptor);
  devices.push(device);
  return device;
};
await import("../../src/engine/worker.ts");

/** For ever, as far as a test is concerned. */
const HANG_MS = 30_000;

const { systemFiles } = await import("../../src/kv/store/file_ops.ts");
const { write } = systemFiles;
const faults: Record<string, () => void> = {
  destroy: () => devices.forEach((device) => device.destroy()),
  hang: () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, HANG_MS),
  die: () =>
    setTimeout(() => {
      throw new Error("killed by a test");
    }),
  disk_full: () => {
    systemFiles.write = () => {
      throw new Error("No space left on device (os error 28)");
    };
  },
  disk_free: () => systemFiles.write = write,
};

const scope = self as unknown as WorkerScope;
const take = scope.onmessage;
scope.onmessage = (event) => {
  const fault = faults[(event.data as { type: string }).type];
  if (fault === undefined) take?.(event);
  else fault();
};
