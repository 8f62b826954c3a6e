/** The values of a producer that are trained, as one flat list. @module */
import { IMPORTANCE_DIM } from "../../butler/predictor/shape.ts";
import type { ProducerSizes, ProducerValues } from "../objective.ts";

/** Names of the trained values, in the order in which they lie. */
export const NAMES = ["up", "down", "keys", "gain", "bias"] as const;
/** One of them. */
export type Name = typeof NAMES[number];

/** Numbers of each. */
export function lengthsOf(sizes: ProducerSizes): Record<Name, number> {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim } = sizes;
  return {
    up: inner * hiddenSize,
    down: served * numHeads * IMPORTANCE_DIM * inner,
    keys: served * numKvHeads * headDim * IMPORTANCE_DIM,
    gain: hiddenSize,
    bias: hiddenSize,
  };
}

/** Where each begins, and how many numbers there are in all. */
export function placesOf(
  sizes: ProducerSizes,
): { readonly places: Readonly<Record<Name, number>>; readonly count: number } {
  const lengths = lengthsOf(sizes);
  let count = 0;
  const places = Object.fromEntries(NAMES.map((name) => {
    const place = count;
    count += lengths[name];
    return [name, place];
  })) as Record<Name, number>;
  return { places, count };
}

/** Values by name, of the flat list that checkpoints have. */
export function splitValues(
  sizes: ProducerSizes,
  values: Float32Array<ArrayBuffer>,
): ProducerValues<Float32Array<ArrayBuffer>> {
  const lengths = lengthsOf(sizes);
  const { places } = placesOf(sizes);
  return Object.fromEntries(
    NAMES.map((name) => [name, values.slice(places[name], places[name] + lengths[name])]),
  ) as unknown as ProducerValues<Float32Array<ArrayBuffer>>;
}

/** Numbers of the optimiser, which a training goes on with. */
export interface OptimizerState {
  readonly values: Float32Array<ArrayBuffer>;
  /** (values) mean of the gradient, mean of its square */
  readonly moments: Float32Array<ArrayBuffer>;
  readonly steps: number;
}

/** The state in which training begins with some values. */
export function startingState(sizes: ProducerSizes, values: ProducerValues): OptimizerState {
  const { places, count } = placesOf(sizes);
  const flat = new Float32Array(count);
  for (const name of NAMES) flat.set(values[name], places[name]);
  return { values: flat, moments: new Float32Array(2 * count), steps: 0 };
}
