/**
 * Writes down the dispatches of a step while it is encoded, so that they can be sent again: all of
 * one kind, many times over. Nothing in the engine knows of it.
 *
 * @module
 */

/** One dispatch as it was encoded. */
export interface RecordedDispatch {
  /** Name of the kernel's variant. */
  readonly label: string;
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly offsets: readonly number[];
  readonly workgroups: readonly [number, number];
}

/**
 * Runs `step` and returns what it dispatched on the device.
 *
 * The device's own method is covered for the time of the call by one that notes what passes
 * through; the passes themselves go on as they would.
 */
export async function recordDispatches(
  device: GPUDevice,
  step: () => Promise<unknown>,
): Promise<readonly RecordedDispatch[]> {
  const recorded: RecordedDispatch[] = [];
  const createCommandEncoder = device.createCommandEncoder.bind(device);
  device.createCommandEncoder = (descriptor) => {
    const encoder = createCommandEncoder(descriptor);
    const beginComputePass = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (options) => watch(beginComputePass(options), recorded);
    return encoder;
  };
  try {
    await step();
  } finally {
    device.createCommandEncoder = createCommandEncoder;
  }
  return recorded;
}

function watch(pass: GPUComputePassEncoder, recorded: RecordedDispatch[]): GPUComputePassEncoder {
  const setPipeline = pass.setPipeline.bind(pass);
  const dispatchWorkgroups = pass.dispatchWorkgroups.bind(pass);
  const setBindGroup = pass.setBindGroup.bind(pass);
  let pipeline: GPUComputePipeline;
  let group: GPUBindGroup;
  let offsets: readonly number[] = [];
  pass.setPipeline = (value) => {
    pipeline = value;
    setPipeline(value);
  };
  pass.setBindGroup = (index: number, value: GPUBindGroup, dynamic?: Iterable<number>) => {
    group = value;
    offsets = dynamic === undefined ? [] : [...dynamic];
    setBindGroup(index, value, offsets as number[]);
  };
  pass.dispatchWorkgroups = (x, y = 1, z = 1) => {
    recorded.push({ label: pipeline.label, pipeline, group, offsets, workgroups: [x, y] });
    dispatchWorkgroups(x, y, z);
  };
  return pass;
}

/** Encodes dispatches again. */
export function replay(
  pass: GPUComputePassEncoder,
  dispatches: readonly RecordedDispatch[],
): void {
  for (const { pipeline, group, offsets, workgroups } of dispatches) {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group, offsets as number[]);
    pass.dispatchWorkgroups(...workgroups);
  }
}
