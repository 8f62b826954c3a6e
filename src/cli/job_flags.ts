/**
 * Variables of the commands that do one job and end (`calibrate`, `train`, `eval`, `bench`). Their own
 * flags have short names that mean something else elsewhere: a prompt is a text for `generate` and a
 * number of tokens for `bench http`. What somebody sets for all commands must not reach those, so
 * such a flag carries the name of its command in its variable.
 *
 * @module
 */
import type { Flag, Flags } from "./flags.ts";
import { engineFlags } from "./model_flags.ts";

/** Flags that mean the same in every command, by key. */
const SHARED: Flags = engineFlags;

/**
 * Gives the flags of a job variables of its own, but for those that every command with a model has
 * and `--json`.
 *
 * @param job The words that one types, with `-` between them: `bench-http`.
 */
export function jobFlags<const F extends Flags>(job: string, flags: F): F {
  const entries = Object.entries(flags).map(([key, flag]): [string, Flag<unknown>] =>
    key === "json" || SHARED[key]?.help === flag.help ? [key, flag] : [key, { ...flag, job }]
  );
  return Object.fromEntries(entries) as Flags as F;
}
