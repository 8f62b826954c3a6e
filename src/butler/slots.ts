/**
 * What each sequence attends to, step by step: pure bookkeeping over the policies' recipes. Which
 * rows a list holds is known on the device; everything else about a step is decided here.
 *
 * @module
 */
import { MOST_NEIGHBOUR_BUDGET } from "../gpu/ops/neighbours.ts";
import {
  fetchesAhead,
  headBudgets,
  intervalOf,
  longestInterval,
  meanBudget,
  mostHeadBudget,
  stepsKept,
} from "./settings.ts";
import { layerRecipe, POLICIES } from "./policies/mod.ts";
import type { Policy, ScoreKind, StepRecipe } from "./policies/types.ts";
import type { KvSettings, LayerRole } from "./settings_types.ts";

/** What a layer of a sequence attends to at a step. */
export type LayerView =
  | { readonly kind: "all" }
  /** Sinks and a window that moves with every row. */
  | { readonly kind: "window"; readonly prefix: number; readonly windowRows: number }
  | SelectedView;

/** A selection, new or kept from an earlier step. */
export interface SelectedView {
  readonly kind: "selected";
  readonly recipe: StepRecipe;
  /** Made in this step. */
  readonly fresh: boolean;
  /** First row of the window at this step. */
  readonly windowStart: number;
  /** Rows that lists hold at most, of all KV heads. */
  readonly listRows: number;
  /** Rows of a list over those that were chosen: neighbours double them. */
  readonly growth: number;
}

/** One sequence. */
export class SlotView {
  readonly settings: KvSettings;
  readonly policy: Policy;
  /** By layer: rows of a new selection, neighbours included, over the rows that were chosen. */
  readonly growth: readonly number[];
  /** Selections are used two steps after they were made, but for the first one of a layer. */
  readonly ahead: boolean;
  readonly #layers: LayerView[];
  /** By layer: what is chosen in this step for a later one. */
  readonly #coming: (SelectedView | null)[];
  /** By layer: what was chosen last, whether it is used already or not. */
  readonly #chosen: (StepRecipe | null)[];
  /** Layers that attend to everything from this step on, after a selection. */
  readonly #reopened = new Set<number>();
  /** Steps since the first selection; -1 before it. */
  #steps = -1;

  /**
   * @param below The sequence lies below the device: only there rows have to be fetched.
   * @param maxRows Rows that it may come to have.
   */
  constructor(settings: KvSettings, below = false, readonly maxRows = Infinity) {
    this.settings = settings;
    this.policy = POLICIES[settings.policy];
    this.growth = settings.layers.map(({ role }, layer) =>
      role === "selected" ? growthOf(settings, layer, maxRows) : 1
    );
    this.ahead = below && fetchesAhead(settings);
    this.#layers = settings.layers.map(() => ({ kind: "all" }));
    this.#coming = settings.layers.map(() => null);
    this.#chosen = settings.layers.map(() => null);
  }

  /** What a layer attends to since the last {@linkcode advance}. */
  layer(layer: number): LayerView {
    return this.#layers[layer]!;
  }

  /** What is chosen in this step to be used in a later one; null: nothing. */
  coming(layer: number): SelectedView | null {
    return this.#coming[layer]!;
  }

  /** What rows are chosen by in this step, for now or for later; null: none are. */
  choice(layer: number): StepRecipe | null {
    const view = this.layer(layer);
    if (view.kind === "selected" && view.fresh) return view.recipe;
    return this.#coming[layer]?.recipe ?? null;
  }

  /** Whether a layer attends to everything from this step on: a share grew over all rows. */
  isReopened(layer: number): boolean {
    return this.#reopened.has(layer);
  }

  /** Whether rows are chosen in this step in every layer that has a choice. */
  get choosesAll(): boolean {
    return this.settings.layers.every(({ role }, layer) =>
      role !== "selected" || this.choice(layer) !== null
    );
  }

  /** From the next step on a layer attends to what was {@linkcode coming} in an earlier one. */
  use(layer: number, coming: SelectedView): void {
    if (this.layer(layer).kind === "selected") this.#layers[layer] = { ...coming, fresh: false };
  }

  /** How candidates are scored in the layers whose selection is fresh. */
  get scores(): ScoreKind {
    return this.policy.scores;
  }

  /**
   * Goes on to a decode step.
   *
   * @param n Rows, the newest included.
   * @returns Whether rows are chosen in some layer.
   */
  advance(n: number): boolean {
    const { settings, policy } = this;
    const first = this.#steps < 0;
    const due = settings.layers.map((_, layer) =>
      first || policy.once || (this.#steps + 1) % intervalOf(settings, layer) === 0
    );
    const budgets = due.includes(true) ? headBudgets(settings, n) : null;
    let fresh = false;
    this.#reopened.clear();
    settings.layers.forEach(({ role }, layer) => {
      this.#coming[layer] = null;
      const next = this.#next(layer, role, n, due[layer]! ? budgets : null);
      if (next.kind === "all" && this.layer(layer).kind !== "all") this.#reopened.add(layer);
      this.#layers[layer] = next;
      fresh ||= this.choice(layer) !== null;
    });
    if (!first) this.#steps++;
    else if (fresh) this.#steps = 0;
    return fresh;
  }

  /** @param budgets B of every KV head; null: it is no step to choose rows on. */
  #next(
    layer: number,
    role: KvSettings["layers"][number]["role"],
    n: number,
    budgets: ReturnType<typeof headBudgets> | null,
  ): LayerView {
    if (role === "dense") return { kind: "all" };
    if (role === "window") {
      // Also where that is every row: what the device has been told does not change.
      const { sinks, window } = this.settings;
      return {
        kind: "window",
        prefix: Math.min(sinks, n),
        windowRows: window + meanBudget(this.settings, n),
      };
    }
    const old = this.#layers[layer]!;
    if (this.policy.once && old.kind === "selected") return this.#kept(old, n);
    if (budgets === null) return old.kind === "selected" ? this.#kept(old, n) : { kind: "all" };
    const ideal = layerRecipe(this.settings, layer, n, budgets);
    if (ideal === "all") return { kind: "all" };
    const last = this.#chosen[layer]!;
    const recipe = this.policy.scores === "mass" && last !== null
      ? cappedRecipe(ideal, last)
      : ideal;
    this.#chosen[layer] = recipe;
    const growth = this.growth[layer]!;
    const most = Math.max(...recipe.budgets) * recipe.unit * growth;
    const candidates = (recipe.to - recipe.from) * recipe.unit;
    const listRows = Math.min(most, candidates);
    const { windowStart } = recipe;
    const next: SelectedView = {
      kind: "selected",
      recipe,
      fresh: true,
      windowStart,
      listRows,
      growth,
    };
    if (!this.ahead || old.kind !== "selected") return next;
    this.#coming[layer] = next;
    return this.#kept(old, n);
  }

  #kept(old: SelectedView, n: number): SelectedView {
    const slides = this.policy.once;
    const windowStart = slides ? Math.max(0, n - this.settings.window) : old.windowStart;
    return { ...old, fresh: false, windowStart };
  }
}

/** Rows that were let go are no candidates any more: no head can have more than what is left. */
function cappedRecipe(recipe: StepRecipe, old: StepRecipe): StepRecipe {
  const budgets = recipe.budgets.map((rows, head) =>
    Math.min(rows, old.budgets[head]! + recipe.to - old.to)
  );
  return { ...recipe, budgets };
}

/** Scores of rows, made anew at every selection. */
const RANKED: ReadonlySet<ScoreKind> = new Set(["projected", "exact", "predicted"]);

/**
 * Neighbours are for policies that rank row by row at every selection: pages bring their own, and
 * attention that was received says nothing of rows that were let go. A layer that chooses at every
 * step while others keep what they chose has no use for them. They double a list, at most.
 *
 * @param maxRows Rows that the sequence may come to have.
 */
export function growthOf(settings: KvSettings, layer: number, maxRows: number): number {
  const { scores } = POLICIES[settings.policy];
  if (!settings.neighbours || !RANKED.has(scores)) return 1;
  if (intervalOf(settings, layer) === 1 && longestInterval(settings) > 1) return 1;
  // A list is made by one lane, which can do so much.
  return mostHeadBudget(settings, maxRows) > MOST_NEIGHBOUR_BUDGET ? 1 : 2;
}

/**
 * Rows that a list of a sequence can come to have.
 *
 * @param offloaded Rows of a window that is longer than the one on the device are listed too.
 */
export function mostListRows(settings: KvSettings, maxRows: number, offloaded: boolean): number {
  const budgets = headBudgets(settings, maxRows);
  const least = leastListRows(settings, maxRows);
  const rows = settings.layers.map(({ role }, layer) => {
    const recipe = role === "selected" ? layerRecipe(settings, layer, maxRows, budgets) : "all";
    if (recipe === "all") return 0;
    // Where units are pages, the window begins with a page. It grows until the next selection.
    const window = offloaded
      ? maxRows - recipe.windowStart + recipe.unit - 1 + stepsKept(settings, layer)
      : 0;
    return Math.max(least, Math.max(...recipe.budgets) * recipe.unit) *
        growthOf(settings, layer, maxRows) + window;
  });
  return Math.min(maxRows, Math.max(0, ...rows));
}

/** Rows of a list at some length up to `maxRows`, which what is chosen at that length does not tell. */
function leastListRows(settings: KvSettings, maxRows: number): number {
  const { budget, budgetTable, layers, sinks, window } = settings;
  // A head that the table gives little may have more while the others are full.
  if (budgetTable !== undefined) return mostHeadBudget(settings, maxRows);
  // Heads that have more than the mean of a share may have all rows in the end, and not before.
  const even = layers.every(({ weights }) => weights.every((weight) => weight === 1));
  return even || "rows" in budget ? 0 : sinks + window + mostHeadBudget(settings, maxRows);
}

/** Layers that the figures of a reply are about: those with a selection, else with a window, else all. */
export function countedRole({ layers }: KvSettings): LayerRole {
  const roles = layers.map(({ role }) => role);
  return roles.includes("selected") ? "selected" : roles.includes("window") ? "window" : "dense";
}

/** Rows that a layer attends to at a step with `n` rows, the mean over its KV heads. */
export function attendedRows(view: LayerView, n: number): number {
  if (view.kind === "all") return n;
  if (view.kind === "window") return Math.min(n, view.prefix + view.windowRows);
  const { recipe: { prefix, budgets, unit, from, to }, windowStart, growth } = view;
  const most = (to - from) * unit;
  const rows = budgets.reduce((sum, units) => sum + Math.min(most, units * unit * growth), 0);
  return prefix + rows / budgets.length + n - windowStart;
}
