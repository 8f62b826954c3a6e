/** What may look at the activations of a prefill chunk while it runs. @module */
import type { Submission } from "./submission.ts";

/**
 * Told where the encoding of a chunk stands. It may encode copies of activations; what they hold is
 * overwritten by what follows.
 */
export interface PrefillObserver {
  /** `x` holds what enters a layer: (rows, padded hidden size) f32. */
  entering(submission: Submission, layer: number): void;
  /** `qkv` holds the layer's queries after RoPE: (rows, heads + 2 KV heads, head size) f32. */
  rotated(submission: Submission, layer: number): void;
}
