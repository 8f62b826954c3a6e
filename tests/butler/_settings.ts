/** Settings of the KV cache for tests of what follows from them. @module */
import type { Budget, KvLayerSettings, KvSettings } from "../../src/butler/settings.ts";
import { fc } from "std-testing";

/** Settings that a test changes a few of; 64 + 192 + 768 rows unless told otherwise. */
export function settingsOf(
  roles: readonly KvLayerSettings["role"][],
  more: Partial<Omit<KvSettings, "layers">> = {},
  weights: readonly number[] = [1],
): KvSettings {
  return {
    policy: "loki",
    sinks: 64,
    window: 192,
    budget: { rows: 768 },
    interval: 1,
    neighbours: false,
    fetch: "in-step",
    recallEvery: 0,
    layers: roles.map((role) => ({ role, weights })),
    ...more,
  };
}

/** Budgets of either kind. */
export const anyBudget: fc.Arbitrary<Budget> = fc.oneof(
  fc.record({ rows: fc.integer({ min: 0, max: 500 }) }),
  fc.record({ share: fc.double({ min: 0.01, max: 1, noNaN: true }) }),
);

/** Factors of three KV heads, of mean 1. */
export const anyWeights: fc.Arbitrary<readonly number[]> = fc.oneof(
  fc.constant([1, 1, 1]),
  fc.tuple(...[0, 1, 2].map(() => fc.integer({ min: 0, max: 9 }))).map((parts) => {
    const sum = parts.reduce((total, part) => total + part, 0);
    return sum === 0 ? [1, 1, 1] : parts.map((part) => 3 * part / sum);
  }),
);

/** Any role of a layer. */
export const anyRole: fc.Arbitrary<KvLayerSettings["role"]> = fc.constantFrom(
  "dense",
  "window",
  "selected",
);
