/**
 * The layers of a step, encoded one after the other: of rows that attend to everything on the device,
 * of a decode step with selections or rows below the device, and of a prefill chunk below it.
 *
 * @module
 */
import type { DecodePlan } from "./cache_decode.ts";
import type { CacheSteps } from "./cache_steps.ts";
import type { Forward } from "./forward.ts";
import type { StepKind } from "./forward_parts.ts";
import type { PrefillObserver, SelectionObserver } from "./observer.ts";
import type { StagedChunk } from "./offload/staged_prefill.ts";
import type { Submission } from "./submission.ts";

/** What the rows of a plain step share. */
export interface PlainStep {
  readonly kind: StepKind;
  readonly numRows: number;
  readonly numSplits: number;
  /** Of prefill: slot whose rows have something written beside them; null for none. */
  readonly storedSlot: number | null;
  readonly observer: PrefillObserver | null;
}

/** Rows that lie on the device as a whole and attend to everything. */
export function encodePlain(
  submission: Submission,
  forward: Forward,
  cache: CacheSteps | null,
  { kind, numRows, numSplits, storedSlot, observer }: PlainStep,
): void {
  const { attention } = forward;
  forward.encodeInput(submission.pass, numRows, 0);
  for (let layer = 0; layer < forward.options.config.numLayers; layer++) {
    observer?.entering(submission, layer);
    forward.encodeQkv(submission.pass, layer, numRows, 0);
    attention.encodeRope(submission.pass, layer, numRows, 0);
    observer?.rotated(submission, layer);
    if (storedSlot !== null) cache!.prefill.encode(submission, storedSlot, layer);
    const observed = storedSlot !== null &&
      cache!.prefill.encodeObserved(submission, storedSlot, layer, numRows);
    if (!observed) attention.encodeAll(submission.pass, kind, layer, numRows, numSplits, 0);
    forward.encodeOutput(submission.pass, layer, numRows, 0);
  }
}

/** A decode step in which some row attends to a selection, or lies below the device. */
export async function encodePlanned(
  submission: Submission,
  forward: Forward,
  cache: CacheSteps,
  plan: DecodePlan,
  observer: SelectionObserver | null,
): Promise<void> {
  const { numRows } = plan;
  forward.encodeInput(submission.pass, numRows, 0);
  for (let layer = 0; layer < forward.options.config.numLayers; layer++) {
    forward.encodeQkv(submission.pass, layer, numRows, 0);
    forward.attention.encodeRope(submission.pass, layer, numRows, 0);
    await cache.decode.encode(submission, layer, plan, observer);
    forward.encodeOutput(submission.pass, layer, numRows, 0);
  }
}

/** A prefill chunk of a sequence below the device. */
export async function encodeChunk(
  submission: Submission,
  forward: Forward,
  cache: CacheSteps,
  chunk: StagedChunk,
  stores: boolean,
): Promise<void> {
  const { count } = chunk;
  forward.encodeInput(submission.pass, count, 0);
  for (let layer = 0; layer < forward.options.config.numLayers; layer++) {
    forward.encodeQkv(submission.pass, layer, count, 0);
    await cache.prefill.encodeChunk(submission, layer, chunk, stores);
    forward.encodeOutput(submission.pass, layer, count, 0);
    await cache.prefill.finishLayer(submission, layer, chunk);
  }
  await cache.prefill.finishChunk(submission);
}
