/** What `bench latency` can be asked for, and which cases that makes. @module */
import { POLICIES } from "../src/butler/policies/mod.ts";
import { POLICY_NAMES, type PolicyName } from "../src/butler/settings.ts";
import { KV_RANGES } from "../src/butler/settings_check.ts";
import { triStateFlag, valueFlag } from "../src/cli/flags.ts";
import { engineFlags } from "../src/cli/model_flags.ts";
import { integer, text } from "../src/cli/values.ts";
import { z } from "zod";
import { countFlag } from "./_define.ts";
import { PLACE_NAMES } from "./_latency_place.ts";

const group = "Measurement";

/** Longest context that can be asked for. */
const MOST_CONTEXT = 2 ** 20;

/** Whole numbers with commas between them; `8k` is 8192. */
function lengths(max: number): z.ZodType<number[], string> {
  const rule = `wanted whole numbers from 1 to ${max} (8k is 8192) with commas between them`;
  return z.string().regex(/^\d+k?(,\d+k?)*$/i, rule).transform((list) =>
    list.split(",").map((item) => parseInt(item) * (/k$/i.test(item) ? 1024 : 1))
  ).pipe(z.array(z.number().min(1, rule).max(max, rule)));
}

function words<const Words extends readonly string[]>(known: Words) {
  const rule = `wanted some of ${known.join(", ")} with commas between them`;
  return z.string().transform((list, context): Words[number][] => {
    const found = list.split(",").map((word) => known.find((name) => name === word));
    if (found.every((word) => word !== undefined)) return found;
    context.addIssue(rule);
    return z.NEVER;
  });
}

const file = (help: string) =>
  valueFlag({ group, help, placeholder: "FILE", schema: text, fallback: null });

/** All flags. */
export const latencyFlags = {
  ...engineFlags,
  contexts: valueFlag({
    group,
    help: "rows that are there before the measured steps; 8k is 8192",
    placeholder: "N,N",
    schema: lengths(MOST_CONTEXT),
    fallback: null,
    fallbackText: "1k,2k,4k,8k on a software adapter, up to 128k on a GPU",
  }),
  policies: valueFlag({
    group,
    help: "policies, of those that a request can name",
    placeholder: "NAME,NAME",
    schema: words(POLICY_NAMES),
    fallback: null,
    fallbackText: "dense,streaming,quest,loki,tokenbutler on a software adapter, all on a GPU",
  }),
  intervals: valueFlag({
    group,
    help: "steps from one selection to the next, for policies that select again and again",
    placeholder: "N,N",
    schema: lengths(KV_RANGES.interval[1]),
    fallback: null,
    fallbackText: "1,8 on a software adapter, 1,2,4,8,16 on a GPU",
  }),
  places: valueFlag({
    group,
    help:
      "where the rows are: device (all of them), offload (a working set; --kv-device sets its " +
      "size)",
    placeholder: "NAME,NAME",
    schema: words(PLACE_NAMES),
    fallback: [...PLACE_NAMES],
    fallbackText: PLACE_NAMES.join(),
  }),
  prefill: countFlag(
    "rows that are prefilled at most; longer contexts repeat them, keys turned to their places",
    4096,
  ),
  steps: countFlag("timed steps of a turn at least; whole runs between selections", 8),
  warm: countFlag("steps before them at least", 4),
  rounds: countFlag("rounds over all cases of a context", 4),
  rateRounds: valueFlag({
    group,
    help: "rounds in which the adapter's rates are measured, for the ceiling; 0 leaves it out",
    placeholder: "N",
    schema: integer(0, 1000),
    fallback: 4,
  }),
  breakdown: triStateFlag({
    group,
    help: "sends the dispatches of each case's steps again part by part, to see where time goes",
    fallbackText: "on",
  }),
  jsonFile: file("writes everything there as one JSON document"),
  svg: file("draws the curves there"),
} as const;

/** The lists that are measured where nothing is said. */
export function defaultLists(software: boolean) {
  return software
    ? {
      contexts: [1024, 2048, 4096, 8192],
      policies: ["dense", "streaming", "quest", "loki", "tokenbutler"] as readonly PolicyName[],
      intervals: [1, 8],
    }
    : {
      contexts: [1, 2, 4, 8, 16, 32, 64, 128].map((thousands) => thousands * 1024),
      policies: POLICY_NAMES as readonly PolicyName[],
      intervals: [1, 2, 4, 8, 16],
    };
}

/** A policy and its interval. */
export interface PolicyCase {
  readonly policy: PolicyName;
  readonly interval: number;
}

/** Every policy with every interval; one that does not select again has no interval. */
export function policyCases(
  policies: readonly PolicyName[],
  intervals: readonly number[],
): PolicyCase[] {
  return policies.flatMap((policy) => {
    const { scores, once } = POLICIES[policy];
    const own = scores === "none" || once ? [1] : intervals;
    return own.map((interval) => ({ policy, interval }));
  });
}
