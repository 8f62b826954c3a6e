/**
 * Finds an adapter and opens a device on it with the best features and limits it offers.
 *
 * @module
 */

/** An adapter that is missing or too small. The message says what to do. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
  constructor(
    /** `bad_setting`: of a kernel; asked for by whoever starts the engine. */
    readonly code: "no_adapter" | "too_small" | "bad_setting" | "lost" | "out_of_memory" | "failed",
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** What the kernels may rely on; decides the variant of every kernel. */
export interface DeviceCaps {
  /** Name of the device, for people. */
  readonly description: string;
  /** PCI vendor id as a number in text. */
  readonly vendor: string;
  /** A CPU that plays a GPU (llvmpipe, SwiftShader, WARP). */
  readonly software: boolean;
  readonly subgroups: boolean;
  /** Smallest and largest subgroup; 0 when unknown. */
  readonly subgroupMin: number;
  readonly subgroupMax: number;
  readonly f16: boolean;
  readonly timestamps: boolean;
  readonly maxBufferSize: number;
  readonly maxBindingSize: number;
  readonly maxWorkgroupSize: number;
  readonly maxWorkgroupStorage: number;
  readonly uniformAlignment: number;
  readonly storageAlignment: number;
}

/** An open device. Whoever opened it destroys it. */
export interface OpenDevice {
  readonly device: GPUDevice;
  readonly caps: DeviceCaps;
}

/** Deno's adapter info carries members that the standard type does not name. */
interface AdapterInfo {
  readonly vendor?: string;
  readonly description?: string;
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
  readonly isFallbackAdapter?: boolean;
}

/** Feature sets to try, best first. `subgroups` works in Deno although no adapter lists it. */
const FEATURE_LADDER: readonly (readonly string[])[] = [
  ["subgroups", "shader-f16", "timestamp-query"],
  ["subgroups", "shader-f16"],
  ["subgroups", "timestamp-query"],
  ["subgroups"],
  ["shader-f16", "timestamp-query"],
  ["shader-f16"],
  ["timestamp-query"],
  [],
];

const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupStorageSize",
] as const;

/** The least that the kernels need. */
const LEAST: Readonly<Partial<Record<(typeof WANTED_LIMITS)[number], number>>> = {
  maxBufferSize: 128 * 2 ** 20,
  maxStorageBufferBindingSize: 64 * 2 ** 20,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeInvocationsPerWorkgroup: 64,
  maxComputeWorkgroupSizeX: 64,
  maxComputeWorkgroupStorageSize: 16 * 2 ** 10,
};

/** What to do when no adapter answers. */
const NO_ADAPTER_HELP =
  "no WebGPU adapter was found. Install a Vulkan driver (Debian/Ubuntu: apt-get install " +
  "libvulkan1 mesa-vulkan-drivers; NVIDIA: the driver's Vulkan part), check it with vulkaninfo, " +
  "and see that DENO_WEBGPU_BACKEND, if set, names a backend of this machine.";

async function requestAdapter(): Promise<GPUAdapter> {
  // Outside Deno's --unstable-webgpu the whole API is absent.
  const gpu = (navigator as { gpu?: GPU }).gpu;
  if (gpu === undefined) {
    throw new DeviceError("no_adapter", "WebGPU is off: start Deno with --unstable-webgpu.");
  }
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new DeviceError("no_adapter", NO_ADAPTER_HELP);
  return adapter;
}

/**
 * Opens a device.
 *
 * @param masked Features to do without, for tests of the other kernel variants.
 * @throws {DeviceError} If there is no adapter, or it is too small.
 */
export async function openDevice(masked: readonly string[] = []): Promise<OpenDevice> {
  for (const features of FEATURE_LADDER) {
    if (features.some((feature) => masked.includes(feature))) continue;
    // A try spends the adapter, whether it works or not.
    const adapter = await requestAdapter();
    checkLimits(adapter);
    const requiredLimits: Record<string, number> = {};
    for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
    let device: GPUDevice;
    try {
      device = await adapter.requestDevice({
        label: "tokenbutler",
        requiredFeatures: features as GPUFeatureName[],
        requiredLimits,
      });
    } catch (error) {
      if (features.length > 0) continue;
      throw new DeviceError("failed", `the adapter refused a device: ${(error as Error).message}`, {
        cause: error,
      });
    }
    return { device, caps: readCaps(adapter, device, features) };
  }
  throw new DeviceError("failed", "no feature set was left to try");
}

function checkLimits(adapter: GPUAdapter): void {
  for (const name of WANTED_LIMITS) {
    const least = LEAST[name];
    const has = adapter.limits[name];
    if (least !== undefined && has < least) {
      const info = (adapter as unknown as { info?: AdapterInfo }).info;
      throw new DeviceError(
        "too_small",
        `adapter "${info?.description ?? "unknown"}" is too small: ${name} is ${has}, at least ` +
          `${least} is needed. Choose another adapter or backend (DENO_WEBGPU_BACKEND).`,
      );
    }
  }
}

function readCaps(adapter: GPUAdapter, device: GPUDevice, features: readonly string[]): DeviceCaps {
  const info = (adapter as unknown as { info?: AdapterInfo }).info ?? {};
  const description = info.description ?? "";
  const limits = device.limits;
  return {
    description,
    vendor: info.vendor ?? "",
    software: /^(llvmpipe|SwiftShader)|Basic Render/i.test(description),
    subgroups: features.includes("subgroups"),
    subgroupMin: info.subgroupMinSize ?? 0,
    subgroupMax: info.subgroupMaxSize ?? 0,
    f16: features.includes("shader-f16"),
    timestamps: features.includes("timestamp-query"),
    maxBufferSize: limits.maxBufferSize,
    maxBindingSize: Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize),
    maxWorkgroupSize: Math.min(
      limits.maxComputeInvocationsPerWorkgroup,
      limits.maxComputeWorkgroupSizeX,
    ),
    maxWorkgroupStorage: limits.maxComputeWorkgroupStorageSize,
    uniformAlignment: limits.minUniformBufferOffsetAlignment,
    storageAlignment: limits.minStorageBufferOffsetAlignment,
  };
}

/**
 * Capabilities with a smaller binding limit, so that any adapter can show what large tensors need.
 *
 * @param overrides `maxBindingBytes` lowers the limit; other names are passed over.
 * @throws {DeviceError} If it is no whole number above 0.
 */
export function limitCaps(
  caps: DeviceCaps,
  overrides: Readonly<Record<string, string>>,
): DeviceCaps {
  const text = overrides["maxBindingBytes"];
  if (text === undefined) return caps;
  const bytes = Number(text);
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new DeviceError("bad_setting", `maxBindingBytes=${text} is not a whole number above 0`);
  }
  return { ...caps, maxBindingSize: Math.min(caps.maxBindingSize, bytes) };
}
