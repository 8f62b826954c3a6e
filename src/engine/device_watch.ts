/** What a device says of itself between two steps. @module */
import { DeviceError } from "../gpu/device.ts";
import type { Kernels } from "../gpu/kernels.ts";

/** Makes later steps fail with the device's own words instead of giving wrong results. */
export function failWithDevice(kernels: Kernels): void {
  kernels.device.addEventListener("uncapturederror", (event) => {
    kernels.fail(new DeviceError("failed", errorMessage(event)));
  });
  kernels.device.lost.then((info) => kernels.fail(new DeviceError("lost", lostMessage(info))));
}

/**
 * Tells when a device is gone for good: it was lost, or an error made all its later steps fail. May
 * tell several times.
 */
export function onDeviceGone(device: GPUDevice, tell: (message: string) => void): void {
  device.lost.then((info) => tell(lostMessage(info)));
  device.addEventListener("uncapturederror", (event) => tell(errorMessage(event)));
}

function errorMessage(event: Event): string {
  return `the device reported an error: ${(event as GPUUncapturedErrorEvent).error.message}`;
}

function lostMessage(info: GPUDeviceLostInfo): string {
  return `the device was lost: ${info.message || info.reason}`;
}
