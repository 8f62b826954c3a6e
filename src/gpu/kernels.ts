/**
 * Compiles shaders into pipelines and keeps them by variant name; makes the bind groups and sends
 * the dispatches. Everything a host partner in `ops/` needs of the device goes through here.
 *
 * @module
 */
import { readShader } from "../assets.ts";
import { completed } from "./completions.ts";
import { type DeviceCaps, DeviceError } from "./device.ts";
import type { ParamStruct } from "./params.ts";
import { type Defines, preprocess } from "./preprocessor.ts";

/** How a binding of group 0 is used. The uniform of a kernel is its last binding. */
export type BindingKind = "read" | "write" | "uniform" | "step";

/** What compiles into one pipeline. */
export interface KernelSpec {
  /** File name in `shaders/`, without `.wgsl`. */
  readonly shader: string;
  /** Readable name of the variant: cache key, label and row of a profile. */
  readonly variant: string;
  readonly defines: Defines;
  /** Bindings 0, 1, ... of group 0, in order. `step` is a uniform with a dynamic offset. */
  readonly bindings: readonly BindingKind[];
  /** Structs whose WGSL text is put before the source. */
  readonly structs: readonly ParamStruct[];
}

/** A compiled kernel. */
export interface Kernel {
  readonly shader: string;
  readonly variant: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly bindings: readonly BindingKind[];
}

/** A buffer or a part of one. */
export type BufferPart = GPUBuffer | {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly size: number;
};

/** Dispatch count of a dimension that WebGPU allows. */
const MAX_GROUPS = 65535;

/** Compiles and caches kernels of one device. */
export class Kernels {
  readonly #cache = new Map<string, Kernel>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  #failure: Error | undefined;

  constructor(readonly device: GPUDevice, readonly caps: DeviceCaps) {}

  /** Variants that have been compiled, by shader; for reports. */
  get variants(): Readonly<Record<string, string>> {
    const groups = Map.groupBy(this.#cache.values(), (kernel) => kernel.shader);
    return Object.fromEntries(
      [...groups].map(([shader, list]) => [shader, list.map((k) => k.variant).join(" ")]),
    );
  }

  /**
   * Compiles a kernel, or returns the one compiled before.
   *
   * @throws {DeviceError} If the driver refuses the shader; carries the compiler's text.
   */
  async compile(spec: KernelSpec): Promise<Kernel> {
    const cached = this.#cache.get(spec.variant);
    if (cached !== undefined) return cached;
    const source = this.source(spec);
    this.device.pushErrorScope("validation");
    const module = this.device.createShaderModule({ label: spec.variant, code: source });
    const layout = this.#layout(spec.bindings);
    const pipeline = this.device.createComputePipeline({
      label: spec.variant,
      layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    const error = await this.device.popErrorScope();
    completed();
    if (error !== null) {
      const info = await module.getCompilationInfo();
      const text = info.messages.map((message) => `${message.lineNum}: ${message.message}`);
      throw new DeviceError(
        "failed",
        `kernel ${spec.variant} does not compile: ${error.message}\n${text.join("\n")}`,
      );
    }
    const { shader, variant, bindings } = spec;
    const kernel = { shader, variant, pipeline, layout, bindings };
    this.#cache.set(spec.variant, kernel);
    return kernel;
  }

  /** Kernels with equal bindings share a layout, so that they can share bind groups. */
  #layout(bindings: readonly BindingKind[]): GPUBindGroupLayout {
    const key = bindings.join();
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      layout = this.device.createBindGroupLayout({
        label: key,
        entries: bindings.map((kind, binding) => ({
          binding,
          visibility: GPUShaderStage.COMPUTE,
          buffer: {
            type: kind === "read" ? "read-only-storage" : kind === "write" ? "storage" : "uniform",
            hasDynamicOffset: kind === "step",
          },
        })),
      });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  /** WGSL text of a kernel, after the preprocessor. */
  source(spec: KernelSpec): string {
    const body = preprocess(`${spec.shader}.wgsl`, spec.defines, readShader);
    // No `enable subgroups`: naga refuses the line and takes the operations without it.
    return spec.structs.map((struct) => struct.wgsl).join("") + body;
  }

  /** Bind group of a kernel. `step` bindings take the part's size as their window. */
  bind(kernel: Kernel, parts: readonly BufferPart[]): GPUBindGroup {
    if (parts.length !== kernel.bindings.length) {
      throw new RangeError(
        `kernel ${kernel.variant} has ${kernel.bindings.length} bindings, got ${parts.length}`,
      );
    }
    return this.device.createBindGroup({
      label: kernel.variant,
      layout: kernel.layout,
      entries: parts.map((part, binding) => ({
        binding,
        resource: "buffer" in part ? part : { buffer: part },
      })),
    });
  }

  /** Uniform buffer with fixed contents. The caller destroys it. */
  uniform(label: string, words: Uint32Array<ArrayBuffer>): GPUBuffer {
    const buffer = this.device.createBuffer({
      label,
      size: words.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.device.queue.writeBuffer(buffer, 0, words);
    return buffer;
  }

  /**
   * Storage buffer. The caller destroys it.
   *
   * @throws {DeviceError} If it is larger than the device allows.
   */
  storage(label: string, size: number): GPUBuffer {
    const bytes = Math.max(16, Math.ceil(size / 16) * 16);
    if (bytes > this.caps.maxBindingSize) {
      throw new DeviceError(
        "out_of_memory",
        `buffer "${label}" needs ${bytes} bytes, the adapter binds at most ${this.caps.maxBindingSize}`,
      );
    }
    return this.device.createBuffer({
      label,
      size: bytes,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
    });
  }

  /**
   * Makes buffers that the device may have no room for.
   *
   * @param what What they are for; for people.
   * @param make Makes all of them and does nothing else.
   * @param give Destroys them.
   * @throws {DeviceError} If there is no room; nothing is left of them then.
   */
  async tryBuffers<T>(what: string, make: () => T, give: (made: T) => void): Promise<T> {
    const { device } = this;
    device.pushErrorScope("out-of-memory");
    device.pushErrorScope("validation");
    let scopes: Promise<GPUError | null>[];
    let made: T;
    try {
      made = make();
    } finally {
      scopes = [device.popErrorScope(), device.popErrorScope()];
    }
    const error = (await Promise.all(scopes)).find((error) => error !== null);
    if (error == null) return made;
    give(made);
    throw new DeviceError(
      "out_of_memory",
      `the device has no room for ${what}: give the KV cache less with --kv-device, or ask for less ` +
        `(${error.message})`,
    );
  }

  /** Marks the device as failed; the first reason is kept, but for the loss that it led to. */
  fail(error: Error): void {
    const lost = error instanceof DeviceError && error.code === "lost";
    if (lost || this.#failure === undefined) this.#failure = error;
  }

  /** @throws {Error} If the device has failed. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
}

/** Scratch of {@linkcode dispatch}: the typed form of setBindGroup is the cheaper one. */
const offsets = new Uint32Array(1);

/**
 * Sends a dispatch. A count above the limit of one dimension is folded into y; shaders read their
 * linear workgroup number from both (`workgroup_index` in shaders/common/dispatch.wgsl).
 *
 * @param stepOffset Byte offset for the kernel's `step` binding; required if it has one.
 */
export function dispatch(
  pass: GPUComputePassEncoder,
  kernel: Kernel,
  group: GPUBindGroup,
  workgroups: number,
  stepOffset?: number,
): void {
  if (workgroups === 0) return;
  pass.setPipeline(kernel.pipeline);
  if (stepOffset === undefined) pass.setBindGroup(0, group);
  else {
    offsets[0] = stepOffset;
    pass.setBindGroup(0, group, offsets, 0, 1);
  }
  if (workgroups <= MAX_GROUPS) pass.dispatchWorkgroups(workgroups);
  else {
    const y = Math.ceil(workgroups / MAX_GROUPS);
    pass.dispatchWorkgroups(Math.ceil(workgroups / y), y);
  }
}
