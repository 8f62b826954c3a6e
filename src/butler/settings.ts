/**
 * What a user says about the KV cache, and what is decided from it: which rows of keys and values a
 * decode step attends to, and how they come to the device. Pure data and pure functions; the names
 * of the wire are in `settings_wire.ts`.
 *
 * @module
 */
import { type BudgetTable, rowsAt, withDenseLayers } from "./budget_table.ts";
import { checkKv } from "./settings_check.ts";
import {
  type Budget,
  defaultDenseLayers,
  KV_DEFAULTS,
  type KvLayerSettings,
  type KvRequest,
  type KvSettings,
  KvSettingsError,
  type KvTable,
  type KvTableLayer,
  type PolicyName,
  tableBudget,
  tableMean,
} from "./settings_types.ts";

export * from "./settings_types.ts";

/**
 * Settings of `over` before those of `base`: a request over the command line.
 *
 * A table and a number of dense layers say the same thing in two ways: the one in `over` replaces
 * the other in `base`. So do a table's own budgets replace the budget of `base`, and an interval those
 * of the layers of a table in `base`. Whether the
 * predictor's table is used is a matter of its own: dense layers go with it or without it.
 */
export function mergeKv(base: KvRequest, over: KvRequest): KvRequest {
  const merged = { ...base };
  if (typeof over.table === "object") delete merged.denseLayers;
  if (over.denseLayers !== undefined && typeof base.table === "object") delete merged.table;
  if (ownTable(over)?.layers.some((layer) => layer.budgets !== undefined)) delete merged.budget;
  const table = ownTable(merged);
  const all = over.interval !== undefined && table !== undefined
    ? { table: { layers: table.layers.map(({ interval: _, ...layer }) => layer) } }
    : {};
  const said = Object.entries(over).filter(([, value]) => value !== undefined);
  return { ...merged, ...all, ...Object.fromEntries(said) };
}

/** What of a model decides on settings. */
export interface KvModel {
  readonly numLayers: number;
  readonly numKvHeads: number;
}

/** What is known when the settings of a sequence are decided. */
export interface KvSituation {
  /** Prompt and answer together fit the device's pool. */
  readonly fits: boolean;
  /** There are principal components of this model's keys, which `loki` needs. */
  readonly canProject: boolean;
  /** There is a predictor of this model, which `tokenbutler` needs. */
  readonly canPredict: boolean;
  /** The table of that predictor; null or absent: it has none. */
  readonly budgetTable?: BudgetTable | null;
}

/** The command that makes what `loki` needs. */
export const CALIBRATE_HINT = "./run calibrate --model MODEL --text FILE --out FILE";

/** The command that makes what `tokenbutler` needs. */
export const TRAIN_HINT = "./run train --model MODEL --text FILE --out FILE";

/**
 * Decides everything about a sequence's cache, once, when it is taken in.
 *
 * Policy `streaming` ignores the budget: its settings say 0 rows and all its layers that are not
 * dense are `window`, so that one rule (sinks + window + budget) gives the rows of every window.
 *
 * @param request What is said, already merged.
 * @throws {KvSettingsError} For numbers out of range, a table of another model's shape, and a named
 *   policy that lacks what it needs.
 */
export function resolveKv(
  request: KvRequest,
  model: KvModel,
  situation: KvSituation,
): { readonly settings: KvSettings; readonly notes: readonly string[] } {
  checkKv(request);
  checkModel(request, model);
  const { policy, notes } = choosePolicy(request, situation);
  const interval = request.interval ?? KV_DEFAULTS.interval;
  const layers = layersOf(request, policy, model, situation.budgetTable ?? null);
  checkFirstLayer(request, policy, layers.layers);
  // Where no layer chooses, what was asked for is said all the same.
  const selects = layers.layers.some(({ role }) => role === "selected");
  const longest = selects ? longestInterval({ interval, ...layers }) : interval;
  const settings: KvSettings = {
    policy,
    sinks: request.sinks ?? KV_DEFAULTS.sinks,
    window: request.window ?? KV_DEFAULTS.window,
    budget: budgetOf(request, policy, layers.budgetTable !== undefined),
    interval,
    neighbours: request.neighbours ?? longest > 1,
    fetch: request.fetch ?? KV_DEFAULTS.fetch,
    recallEvery: request.recallEvery ?? KV_DEFAULTS.recallEvery,
    ...layers,
  };
  return { settings, notes };
}

function choosePolicy(
  request: KvRequest,
  { fits, canProject, canPredict }: KvSituation,
): { policy: PolicyName; notes: string[] } {
  const named = request.policy;
  if (named === "loki" && !canProject) {
    throw new KvSettingsError(
      ["policy"],
      `is loki, which needs a calibration file of this model, and there is none: make one with ` +
        `\`${CALIBRATE_HINT}\` and start with --calibration FILE`,
    );
  }
  if (named === "tokenbutler" && !canPredict) {
    throw new KvSettingsError(
      ["policy"],
      "is tokenbutler, which needs a trained predictor of this model, and there is none: make one " +
        `with \`${TRAIN_HINT}\` and start with --predictor FILE, or take loki, which needs only a ` +
        `calibration file (\`${CALIBRATE_HINT}\`)`,
    );
  }
  if (named !== undefined) return { policy: named, notes: [] };
  if (fits) return { policy: "dense", notes: [] };
  // Whoever lets rows of the first layer be chosen, but names no policy, gets one that can.
  const first = ownTable(request)?.layers[0]?.role === "selected" || request.denseLayers === 0;
  if (canPredict && !first) return { policy: "tokenbutler", notes: [] };
  if (canProject) {
    const note = "loki chooses the rows: there is no predictor of this model, which tokenbutler " +
      `needs (\`${TRAIN_HINT}\`)`;
    return { policy: "loki", notes: canPredict ? [] : [note] };
  }
  const note = "the request does not fit the device's part of the KV cache, and without a " +
    "calibration file every step reads all of it, which is slow: make one with " +
    `\`${CALIBRATE_HINT}\` and start with --calibration FILE, or name a policy`;
  return { policy: "dense", notes: [note] };
}

/** The first layer has no producer before it. */
function checkFirstLayer(
  request: KvRequest,
  policy: PolicyName,
  [first]: readonly KvLayerSettings[],
): void {
  if (policy !== "tokenbutler" || first?.role !== "selected") return;
  const why = "under tokenbutler: nothing predicts which rows the first layer needs";
  if (ownTable(request) === undefined) {
    throw new KvSettingsError(["dense_layers"], `must be at least 1 ${why}`);
  }
  throw new KvSettingsError(["table", "layers", 0, "role"], `must be dense or window ${why}`);
}

function checkModel(request: KvRequest, model: KvModel): void {
  const { numLayers, numKvHeads } = model;
  const { denseLayers } = request;
  const table = ownTable(request);
  if (denseLayers !== undefined && denseLayers > numLayers) {
    throw new KvSettingsError(
      ["dense_layers"],
      `must be at most ${numLayers}, the layers of this model, but is ${denseLayers}`,
    );
  }
  if (table === undefined) return;
  if (table.layers.length !== numLayers) {
    throw new KvSettingsError(
      ["table", "layers"],
      `must have ${numLayers} entries, one for each layer of this model, not ` +
        `${table.layers.length}`,
    );
  }
  for (const [index, { budgets }] of table.layers.entries()) {
    if (budgets !== undefined && budgets.length !== numKvHeads) {
      throw new KvSettingsError(
        ["table", "layers", index, "budgets"],
        `must have ${numKvHeads} entries, one for each KV head of this model, not ` +
          `${budgets.length}`,
      );
    }
  }
}

/** The table of a request or a file. */
function ownTable({ table }: KvRequest): KvTable | undefined {
  return typeof table === "object" ? table : undefined;
}

function layersOf(
  request: KvRequest,
  policy: PolicyName,
  { numLayers, numKvHeads }: KvModel,
  calibrated: BudgetTable | null,
): Pick<KvSettings, "layers" | "budgetTable" | "restless"> {
  const ones: readonly number[] = Array.from({ length: numKvHeads }, () => 1);
  const shape = predictedShape(request, policy, calibrated);
  if (shape !== null) {
    const layers = shape.roles.map((role) => ({ role, weights: ones }));
    const budgets = shape.points === null ? {} : { budgetTable: shape };
    return { layers, ...budgets, ...restlessOf(layers, calibrated) };
  }
  const numDense = request.denseLayers ?? defaultDenseLayers(policy);
  const table: readonly KvTableLayer[] = ownTable(request)?.layers ??
    Array.from({ length: numLayers }, (_, layer) => ({
      role: layer < numDense ? "dense" : "selected",
    }));
  const mean = weightBase(request, table);
  const layers = table.map(({ role, budgets, interval }): KvLayerSettings => {
    if (policy === "dense") return { role: "dense", weights: ones };
    if (policy === "streaming" && role === "selected") return { role: "window", weights: ones };
    const own = interval === undefined ? {} : { interval };
    // Nothing of nothing: a table of zeros has budget 0.
    if (budgets === undefined || !mean) return { role, weights: ones, ...own };
    return { role, weights: budgets.map((rows) => rows / mean), ...own };
  });
  const predicted = policy === "tokenbutler" && ownTable(request) === undefined;
  return { layers, ...restlessOf(layers, predicted ? calibrated : null) };
}

/** What the predictor's table says of layers that are selected. */
function restlessOf(
  layers: readonly KvLayerSettings[],
  calibrated: BudgetTable | null,
): Pick<KvSettings, "restless"> {
  const restless = calibrated?.restless?.filter((layer) => layers[layer]!.role === "selected");
  return restless === undefined || restless.length === 0 ? {} : { restless };
}

/**
 * Rows of a head that has factor 1. Under the budget that is the table's own, whole rows, each head
 * then has exactly what the table says; under any other all of them change in proportion.
 */
function weightBase(
  { budget }: KvRequest,
  layers: readonly KvTableLayer[],
): number | undefined {
  const own = tableBudget({ layers })?.rows;
  const named = budget === undefined || ("rows" in budget && budget.rows === own);
  return named ? own : tableMean(layers);
}

/** What the predictor's table makes of the layers; null where it is not used. */
function predictedShape(
  { table, denseLayers }: KvRequest,
  policy: PolicyName,
  calibrated: BudgetTable | null,
): ReturnType<typeof withDenseLayers> | null {
  if (policy !== "tokenbutler" || (table ?? true) !== true) return null;
  if (calibrated !== null) return withDenseLayers(calibrated, denseLayers ?? 0);
  if (table === undefined) return null;
  throw new KvSettingsError(
    ["table"],
    "is true, but the predictor has no budget table: leave it out, or train the predictor anew",
  );
}

function budgetOf(request: KvRequest, policy: PolicyName, shaped: boolean): Budget {
  const table = shaped ? undefined : ownTable(request);
  const none = table !== undefined && tableMean(table.layers) === 0;
  if (policy === "streaming" || none) return { rows: 0 };
  return request.budget ?? (table && tableBudget(table)) ?? KV_DEFAULTS.budget;
}

/** Whether chosen rows are fetched for a later step, in a sequence that lies below the device. */
export function fetchesAhead({ fetch, layers }: KvSettings): boolean {
  return fetch === "ahead" && layers.some(({ role }) => role === "selected");
}

/** Settings that say when layers choose. */
type Intervals = Pick<KvSettings, "interval" | "layers" | "restless">;

/** Steps from one selection of a layer to the next. */
export function intervalOf({ interval, layers, restless }: Intervals, layer: number): number {
  return layers[layer]!.interval ?? (restless?.includes(layer) === true ? 1 : interval);
}

/** The longest interval of the layers that choose rows; 1 where none does. */
export function longestInterval(settings: Intervals): number {
  return settings.layers.reduce(
    (most, { role }, layer) =>
      role === "selected" ? Math.max(most, intervalOf(settings, layer)) : most,
    1,
  );
}

/**
 * Decode steps after the one that chose rows of a layer in which they may still be attended to: until
 * the next selection, which is used two steps after it was made where rows are fetched ahead.
 */
export function stepsKept(settings: KvSettings, layer: number): number {
  return intervalOf(settings, layer) - 1 + (fetchesAhead(settings) ? 2 : 0);
}

/**
 * The mean B of the KV heads of selected layers: rows beside sinks and window.
 *
 * @param n Rows that there are, sinks and window included.
 * @returns A whole number from 0; may be more than there are rows left.
 */
export function meanBudget(
  { budget, sinks, window }: Pick<KvSettings, "budget" | "sinks" | "window">,
  n: number,
): number {
  return "rows" in budget
    ? budget.rows
    : Math.max(0, Math.round(budget.share * n) - sinks - window);
}

/**
 * B of every KV head at a step with a new selection.
 *
 * @param n Rows that there are, sinks and window included.
 * @returns (L, Hkv) whole numbers from 0; may be more than there are rows left where no table says
 *   what the heads have. Of no meaning in layers that are not selected.
 */
export function headBudgets(settings: KvSettings, n: number): readonly (readonly number[])[] {
  const { layers, budgetTable } = settings;
  const mean = meanBudget(settings, n);
  if (budgetTable !== undefined) return rowsAt(budgetTable, mean, candidateRows(settings, n));
  return layers.map(({ weights }) => weights.map((weight) => Math.round(mean * weight)));
}

/** The largest B of a KV head in any step with up to so many rows, or with any number of them. */
export function mostHeadBudget(settings: KvSettings, maxRows = Infinity): number {
  const { layers, budget, budgetTable } = settings;
  if (maxRows === Infinity && "share" in budget) return Infinity;
  const mean = meanBudget(settings, maxRows);
  const most = (rows: readonly (readonly number[])[]) =>
    rows.reduce((top, heads) => Math.max(top, ...heads), 0);
  if (budgetTable === undefined) {
    return most(
      layers.map(({ role, weights }) =>
        role === "selected" ? weights.map((weight) => Math.round(mean * weight)) : []
      ),
    );
  }
  // At no shorter length does a head have more: what full heads leave fills nobody above them.
  return Math.min(candidateRows(settings, maxRows), most(rowsAt(budgetTable, mean)));
}

/** Rows between sinks and window. */
function candidateRows({ sinks, window }: KvSettings, n: number): number {
  return Math.max(0, n - sinks - window);
}
