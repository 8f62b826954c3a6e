/** What `doctor` is asked about. @module */
import {
  availableHostMemory,
  softwareCacheBytes,
  spareDeviceBytes,
} from "../../../engine/host_memory.ts";
import type { DeviceCaps } from "../../../gpu/device.ts";
import { contextLimit, selectPlan } from "../../../gpu/plan.ts";
import type { DeviceTierOptions } from "../../../kv/device_tier.ts";
import type { ModelSource } from "../../../model/types.ts";
import { type Settings, switchFlag } from "../../flags.ts";
import { kvFlags, tierFlags } from "../../kv_flags.ts";
import { maxSeqsFlag, memoryFlags, modelFlag } from "../../model_flags.ts";

/** Its flags. */
export const flags = {
  ...modelFlag,
  ...memoryFlags,
  maxSeqs: maxSeqsFlag(8),
  ...kvFlags,
  ...tierFlags,
  quick: switchFlag({
    group: "Checks",
    help: "leaves out the checksum of the weights file and the self-test",
  }),
} as const;

/** Their values. */
export type DoctorSettings = Settings<typeof flags>;

/** The binding size that a WebGPU device is sure to have; stands in when there is no adapter. */
const USUAL_BINDING_BYTES = 128 * 2 ** 20;

/** What the memory of a model is planned from. */
export function planned(
  source: ModelSource,
  settings: DoctorSettings,
  caps: DeviceCaps | undefined,
): { options: DeviceTierOptions; limits: { maxBindingSize: number; contextLimit: number } } {
  const { config, sizeBytes } = source;
  return {
    options: {
      kvType: settings.kvType,
      contextLength: settings.context ?? config.contextLength,
      numSlots: settings.maxSeqs,
      deviceBytes: settings.kvDevice,
      spareBytes: spareDeviceBytes(sizeBytes),
      ...(caps?.software
        ? { mostBytes: softwareCacheBytes(availableHostMemory(), sizeBytes) }
        : {}),
    },
    limits: {
      maxBindingSize: caps?.maxBindingSize ?? USUAL_BINDING_BYTES,
      contextLimit: caps === undefined ? Infinity : contextLimit(caps, selectPlan(caps), config),
    },
  };
}
