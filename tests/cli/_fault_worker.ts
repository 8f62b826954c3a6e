/**
 * The engine's own worker module, which can be hurt: `die` throws where no request is concerned,
 * `destroy` takes the device away.
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

const scope = self as unknown as WorkerScope;
const take = scope.onmessage;
scope.onmessage = (event) => {
  const { type } = event.data as { type: string };
  if (type === "destroy") {
    for (const device of devices) device.destroy();
  } else if (type === "die") {
    setTimeout(() => {
      throw new Error("killed by a test");
    });
  } else take?.(event);
};
