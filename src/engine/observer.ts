/** What may look at the activations of a step while it runs. @module */
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

/**
 * Told what a decode step selects for rows that lie on the device as a whole. Every row attends to
 * everything then, so that what later layers select is what they would select beside dense attention.
 */
export interface SelectionObserver {
  /**
   * The lists of a layer are made, and `qkv` holds its queries after RoPE: (rows, heads + 2 KV heads,
   * head size) f32. It may encode copies; the queries are overwritten by what follows.
   */
  selected(submission: Submission, layer: number, numRows: number): void;
}
