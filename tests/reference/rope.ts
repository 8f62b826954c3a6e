/** Rotation and head norms in plain f64: what `shaders/rope.wgsl` must agree with. @module */
import { rmsNormReference } from "./rms_norm.ts";

/** How a head is turned. */
export interface RopeCase {
  readonly pairing: "half" | "adjacent";
  /** Dimensions that are turned, from the first on. */
  readonly rotary: number;
  /** Angle of pair i at position p is p * frequencies[i]. */
  readonly frequencies: readonly number[];
  /** Cosine and sine are multiplied with it. */
  readonly attentionFactor: number;
}

/** One head after the rotation at `position`. */
export function rotateReference(head: readonly number[], position: number, c: RopeCase): number[] {
  const out = [...head];
  for (let i = 0; i < c.rotary / 2; i++) {
    const cos = Math.cos(position * c.frequencies[i]!) * c.attentionFactor;
    const sin = Math.sin(position * c.frequencies[i]!) * c.attentionFactor;
    const first = c.pairing === "half" ? i : 2 * i;
    const second = c.pairing === "half" ? i + c.rotary / 2 : 2 * i + 1;
    out[first] = head[first]! * cos - head[second]! * sin;
    out[second] = head[second]! * cos + head[first]! * sin;
  }
  return out;
}

/** One head after its norm, if it has one. */
export function headNormReference(
  head: readonly number[],
  gain: readonly number[] | null,
  eps: number,
): number[] {
  return gain === null ? [...head] : rmsNormReference(head, gain, eps);
}
