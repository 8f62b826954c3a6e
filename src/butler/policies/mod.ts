/** All policies by name, and the recipe of any layer. @module */
import { headBudgets, meanBudget } from "../settings.ts";
import type { KvSettings, PolicyName } from "../settings_types.ts";
import { windowRecipe } from "./common.ts";
import { DENSE } from "./dense.ts";
import { H2O } from "./h2o.ts";
import { LOKI } from "./loki.ts";
import { ORACLE } from "./oracle.ts";
import { QUEST } from "./quest.ts";
import { SNAPKV } from "./snapkv.ts";
import { STREAMING } from "./streaming.ts";
import { TOKENBUTLER } from "./tokenbutler.ts";
import type { Policy, StepRecipe } from "./types.ts";

/** Every policy. */
export const POLICIES: Readonly<Record<PolicyName, Policy>> = {
  dense: DENSE,
  oracle: ORACLE,
  quest: QUEST,
  h2o: H2O,
  snapkv: SNAPKV,
  streaming: STREAMING,
  loki: LOKI,
  tokenbutler: TOKENBUTLER,
};

/**
 * What a layer attends to at a step with `n` rows and a new selection, whatever its role.
 *
 * @param budgets (L, Hkv) B of every KV head at such a step.
 */
export function layerRecipe(
  settings: KvSettings,
  layer: number,
  n: number,
  budgets: readonly (readonly number[])[] = headBudgets(settings, n),
): StepRecipe | "all" {
  const { role, weights } = settings.layers[layer]!;
  if (role === "dense") return "all";
  if (role === "selected") return POLICIES[settings.policy].recipe(settings, budgets[layer]!, n);
  const { sinks, window } = settings;
  return windowRecipe(sinks, window + meanBudget(settings, n), weights.length, n);
}
