/** What each dispatch of a step is for, from the order in which they come. @module */
import type { RecordedDispatch } from "./_recorder.ts";

/**
 * Parts of a step, in their order; the last ones are those of selection (what is kept to score rows
 * with, the scores, the choice by them) and of rows that go between the tiers.
 */
export const ROLES = [
  "embedding",
  "norms",
  "qkv",
  "rope + cache",
  "attention",
  "attention merge",
  "attention out",
  "gate/up",
  "down",
  "head",
  "sampler",
  "importance",
  "scores",
  "choice",
  "row copies",
] as const;

/** One of {@linkcode ROLES}. */
export type Role = (typeof ROLES)[number];

const BY_SHADER: readonly (readonly [RegExp, Role])[] = [
  [/^embed/, "embedding"],
  [/^rms_norm/, "norms"],
  [/^rope/, "rope + cache"],
  [/^attention_merge/, "attention merge"],
  [/^attention/, "attention"],
  [/^sample/, "sampler"],
  [/^importance|^page_bounds|^list_mass/, "importance"],
  [/^score/, "scores"],
  [/^select|^neighbours|^mass_evict/, "choice"],
  [/^kv_/, "row copies"],
];

/** Products that do their part of a norm stand where one would be sent. */
function preparesNorm({ label }: RecordedDispatch): boolean {
  return label.includes("_norm_out");
}

/**
 * Names the part of the model that each dispatch belongs to. Matrix products look alike; their
 * neighbours tell which they are.
 *
 * @throws {RangeError} If a kernel is unknown.
 */
export function rolesOf(dispatches: readonly RecordedDispatch[]): Role[] {
  const roles: (Role | undefined)[] = dispatches.map(({ label }) =>
    BY_SHADER.find(([pattern]) => pattern.test(label))?.[1]
  );
  for (let begin = 0; begin < roles.length; begin++) {
    if (roles[begin] !== undefined) continue;
    let end = begin;
    while (end < roles.length && roles[end] === undefined) {
      if (!dispatches[end]!.label.startsWith("matmul")) {
        throw new RangeError(`kernel ${dispatches[end]!.label} has no part in a step`);
      }
      end++;
      if (preparesNorm(dispatches[end - 1]!)) break;
    }
    const normed = begin > 0 && preparesNorm(dispatches[begin - 1]!);
    const before = normed ? "norms" : roles[begin - 1];
    const after = roles[end];
    // After attention come its output and, past a norm, the run that ends with the way down.
    for (let i = begin; i < end; i++) {
      if (before !== "norms") roles[i] = "attention out";
      else if (after === "rope + cache") roles[i] = "qkv";
      else if (after === "sampler") roles[i] = "head";
      else roles[i] = i === end - 1 ? "down" : "gate/up";
    }
  }
  return roles as Role[];
}
