/**
 * Settings of the KV cache by the names of the wire: the `kv` object of a request's body, the table
 * file, and the text of a budget.
 *
 * @module
 */
import { z } from "zod";
import { type BudgetTable, numDenseLayers } from "./budget_table.ts";
import { kvShape } from "./settings_shape.ts";
import {
  checkKv,
  checkNames,
  checkTable,
  isRecord,
  KV_WIRE_NAMES,
  MAX_BUDGET_ROWS,
  refuseBudget,
} from "./settings_check.ts";
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
  tableBudget,
} from "./settings_types.ts";

const PERCENT = /^(\d+\.?\d*|\.\d+)\s*%$/;

/**
 * A budget from text: `"768"` are rows, `"12.5%"` is a share of all rows so far.
 *
 * @returns Undefined for anything else, and for numbers out of range.
 */
export function parseBudget(text: string): Budget | undefined {
  const share = parseShare(text);
  if (share !== undefined) return share.share > 0 && share.share <= 1 ? share : undefined;
  if (!/^\d+$/.test(text)) return undefined;
  const rows = Number(text);
  return rows <= MAX_BUDGET_ROWS ? { rows } : undefined;
}

function parseShare(text: string): { readonly share: number } | undefined {
  const percent = text.trim().match(PERCENT)?.[1];
  return percent === undefined ? undefined : { share: Number(percent) / 100 };
}

/** A budget as requests write it: a number of rows, or a text like `"12.5%"`. */
export function wireBudget(budget: Budget): number | string {
  if ("rows" in budget) return budget.rows;
  // 0.07 * 100 is 7.000000000000001.
  return `${Number((budget.share * 100).toPrecision(12))}%`;
}

/**
 * Settings from the `kv` object of a body. Members that are null count as absent.
 *
 * @throws {KvSettingsError} For a name or a value that is not known or out of range.
 */
export function readKv(value: unknown): KvRequest {
  if (!isRecord(value)) throw new KvSettingsError([], "must be an object");
  checkNames(value, Object.values(KV_WIRE_NAMES), [], "setting of the KV cache");
  const request: Record<string, unknown> = {};
  for (const [key, name] of Object.entries(KV_WIRE_NAMES)) {
    const member = value[name];
    if (member === undefined || member === null) continue;
    request[key] = key === "budget" ? budgetOf(member) : member;
  }
  checkKv(request);
  return request;
}

/** A share only from text: numbers as texts are refused in all other fields too. */
function budgetOf(value: unknown): Budget {
  if (typeof value === "number") return { rows: value };
  return (typeof value === "string" ? parseShare(value) : undefined) ?? refuseBudget(value);
}

/**
 * The table of a file, from its JSON: `{"layers":[{"role":"selected","budgets":[...]}]}`.
 *
 * @throws {KvSettingsError} For anything else; its path starts in the file.
 */
export function readTable(value: unknown): KvTable {
  checkTable(value);
  return value;
}

/** Makes a schema of a reader: what it throws becomes the one issue. */
function schemaOf<T>(read: (value: unknown) => T) {
  return z.unknown().transform((value, context): T => {
    try {
      return read(value);
    } catch (thrown) {
      if (!(thrown instanceof KvSettingsError)) throw thrown;
      context.addIssue({ code: "custom", message: thrown.rule, path: [...thrown.path] });
      return z.NEVER;
    }
  });
}

/** The `kv` object of a request's body. */
export const kvSchema = schemaOf(readKv).meta(kvShape());
/** The JSON of a table file. */
export const kvTableSchema = schemaOf(readTable);

/**
 * Settings under the names of the wire; a table of the user's own stands in the place of
 * `dense_layers`. Of the predictor's it is only said whether it is used.
 */
export function wireSettings(settings: KvSettings) {
  const { policy, sinks, window, budget, interval, neighbours, fetch, recallEvery } = settings;
  return {
    policy,
    sinks,
    window,
    budget: wireBudget(budget),
    interval,
    neighbours,
    ...wireLayers(settings),
    fetch,
    recall_every: recallEvery,
  };
}

/**
 * What a server takes where a request says nothing; policy null: `dense` where that fits.
 *
 * @param calibrated The predictor's table, if any: `tokenbutler` uses it unless it is told not to.
 */
export function wireDefaults(request: KvRequest, calibrated: BudgetTable | null = null) {
  const { policy } = request;
  const table = typeof request.table === "object" ? request.table : undefined;
  const used = calibrated !== null && request.table !== false && table === undefined;
  const ofTable = used && policy === "tokenbutler" ? numDenseLayers(calibrated.roles) : undefined;
  const own = table === undefined ? undefined : tableBudget(table);
  const interval = request.interval ?? KV_DEFAULTS.interval;
  const intervals = (table?.layers ?? []).flatMap((layer) =>
    layer.role === "selected" ? [layer.interval ?? interval] : []
  );
  return {
    policy: policy ?? null,
    sinks: request.sinks ?? KV_DEFAULTS.sinks,
    window: request.window ?? KV_DEFAULTS.window,
    budget: wireBudget(request.budget ?? own ?? KV_DEFAULTS.budget),
    interval,
    neighbours: request.neighbours ??
      (intervals.length === 0 ? interval : Math.max(...intervals)) > 1,
    ...(table === undefined
      ? { dense_layers: request.denseLayers ?? ofTable ?? defaultDenseLayers(policy) }
      : { table }),
    ...(calibrated === null || table !== undefined ? {} : { table: used }),
    fetch: request.fetch ?? KV_DEFAULTS.fetch,
    recall_every: request.recallEvery ?? KV_DEFAULTS.recallEvery,
  };
}

function wireLayers({ policy, layers, budget, budgetTable }: KvSettings) {
  const numDense = numDenseLayers(layers.map(({ role }) => role));
  // Only tokenbutler could have it.
  const calibrated = policy === "tokenbutler" ? { table: budgetTable !== undefined } : {};
  if (budgetTable !== undefined) return { dense_layers: numDense, ...calibrated };
  const role = policy === "streaming" ? "window" : "selected";
  const even = layers.slice(numDense).every((layer) =>
    layer.role === role && layer.weights.every((weight) => weight === 1) &&
    layer.interval === undefined
  );
  if (even) return { dense_layers: numDense, ...calibrated };
  return { table: { layers: layers.map((layer) => wireLayer(layer, budget)) } };
}

/** Of a budget that is a share no rows can be told: the heads' factors on it are. */
function wireLayer(
  { role, weights, interval }: KvLayerSettings,
  budget: Budget,
): KvTableLayer | Pick<KvLayerSettings, "interval" | "role" | "weights"> {
  if (role !== "selected") return { role };
  const own = interval === undefined ? {} : { interval };
  if ("share" in budget) return { role, weights, ...own };
  return { role, budgets: weights.map((weight) => Math.round(budget.rows * weight)), ...own };
}
