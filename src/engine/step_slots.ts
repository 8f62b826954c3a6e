/** Places of the step's uniform: kernels of one submission that need other numbers. @module */
import { SCORER_KINDS } from "../butler/scorers/kinds.ts";
import type { DeviceCaps } from "../gpu/device.ts";
import { STEP_PARAMS } from "../gpu/step_params.ts";

/** The layers; the head; attention over selections, and over the stage; exact attention; stored rows of each scorer. */
export const STEP_SLOTS = { layers: 0, head: 1, selected: 2, stage: 3, all: 4, store: 5 } as const;

/** Places in all. */
export const NUM_STEP_SLOTS = STEP_SLOTS.store + SCORER_KINDS.length;

/** Bytes from place to place. */
export function stepStrideOf(caps: Pick<DeviceCaps, "uniformAlignment">): number {
  const unit = caps.uniformAlignment;
  return Math.ceil(STEP_PARAMS.size / unit) * unit;
}
