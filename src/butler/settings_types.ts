/**
 * What a user says about the KV cache, and what is decided from it: types and names. Read them from
 * `settings.ts`, which has the functions too.
 *
 * @module
 */
import type { BudgetTable } from "./budget_table.ts";

/** Every selection policy. */
export const POLICY_NAMES = [
  "dense",
  "oracle",
  "quest",
  "h2o",
  "snapkv",
  "streaming",
  "loki",
  "tokenbutler",
] as const;
/** A selection policy. */
export type PolicyName = typeof POLICY_NAMES[number];

/** Rows beside sinks and window: a count, or a share (0..1] of all rows so far, both included. */
export type Budget = { readonly rows: number } | { readonly share: number };

/** Both ways to schedule a fetch. */
export const FETCH_MODES = ["in-step", "ahead"] as const;
/**
 * How chosen rows come to the device where a sequence has no room there. `in-step`: they are fetched
 * before the layer that chose them attends. `ahead`: they are read back with the step's token, fetched
 * while the next step computes, and attended to from the one after that on; only the first selection
 * of a layer is fetched in its step. A sequence that lies on the device as a whole has nothing to
 * fetch: there `ahead` means nothing, and selections are used at once.
 */
export type FetchMode = typeof FETCH_MODES[number];

/** What a layer can be. */
export const LAYER_ROLES = ["dense", "window", "selected"] as const;
/**
 * `dense`: all rows; `window`: sinks and the most recent rows, as many in all as a selected layer
 * has in the mean; `selected`: sinks, window and the rows that the policy chooses.
 */
export type LayerRole = typeof LAYER_ROLES[number];

/** What a request or the command line says; absent members take the next default. */
export interface KvRequest {
  readonly policy?: PolicyName;
  /** First rows that are always attended to. */
  readonly sinks?: number;
  /** Most recent rows that are always attended to, the newest included. */
  readonly window?: number;
  readonly budget?: Budget;
  /** A selection is made every so many steps, but in layers whose table says otherwise. */
  readonly interval?: number;
  /**
   * A run of selected rows brings as many after it. For policies that rank row by row at every
   * selection (oracle, loki, tokenbutler), and layers whose table names no interval of 1; the others
   * do not use it.
   */
  readonly neighbours?: boolean;
  /** Leading layers that attend to everything. */
  readonly denseLayers?: number;
  readonly fetch?: FetchMode;
  /** Measure the recall on every N-th step; 0 is off. */
  readonly recallEvery?: number;
  /**
   * What each layer and each KV head has. False: every head the same; true: what the predictor's
   * table says, for policy `tokenbutler`, which takes that anyway where there is one.
   */
  readonly table?: KvTable | boolean;
}

/** One entry a layer. */
export interface KvTable {
  readonly layers: readonly KvTableLayer[];
}

/** A layer of a table. */
export interface KvTableLayer {
  readonly role: LayerRole;
  /** B of each KV head, in rows; of selected layers only. Absent: the budget for all. */
  readonly budgets?: readonly number[];
  /** Steps from one selection to the next; of selected layers only. Absent: as in the others. */
  readonly interval?: number;
}

/** Everything decided, for one sequence. */
export interface KvSettings {
  readonly policy: PolicyName;
  readonly sinks: number;
  readonly window: number;
  readonly budget: Budget;
  readonly interval: number;
  readonly neighbours: boolean;
  readonly fetch: FetchMode;
  readonly recallEvery: number;
  /** (L) */
  readonly layers: readonly KvLayerSettings[];
  /**
   * The predictor's table, where it is used: it says what each KV head has at any budget, and the
   * weights of the layers are 1.
   */
  readonly budgetTable?: BudgetTable;
  /**
   * Selected layers that choose at every step whatever the interval, since the predictor's table says
   * so, whether its budgets are used or not. Absent: none.
   */
  readonly restless?: readonly number[];
}

/** A layer, decided. */
export interface KvLayerSettings {
  readonly role: LayerRole;
  /**
   * (Hkv) factor of each KV head on the budget; 1 in the mean over all selected layers, but for the
   * rounding of a table's own budget.
   */
  readonly weights: readonly number[];
  /** Steps from one selection to the next, where a table of the user's own says so. */
  readonly interval?: number;
}

/** What a reply says of its cache. Means are over the decode steps of the reply. */
export interface KvReport {
  readonly policy: PolicyName;
  readonly settings: KvSettings;
  /** Attended rows of a KV head of a selected layer. */
  readonly rowsPerStep: number;
  /** Bytes of K and V that went from host or disk to the device. */
  readonly bytesPerStep: number;
  /** Share of the wanted rows that were on the device already. */
  readonly residentShare: number;
  /** Bytes of K and V of the sequence at its end by tier. */
  readonly tiers: { readonly device: number; readonly host: number; readonly disk: number };
  /** Null where it was not measured. */
  readonly recall: {
    /** Share of the exact attention mass that the attended rows cover. */
    readonly mass: number;
    /** Share of the true top-B among the chosen rows. */
    readonly overlap: number;
    /** Steps on which it was measured. */
    readonly steps: number;
  } | null;
  readonly notes: readonly string[];
}

/** Defaults of everything but the policy, the dense layers and the neighbours. */
export const KV_DEFAULTS = {
  sinks: 64,
  window: 192,
  budget: { rows: 768 },
  interval: 1,
  fetch: "in-step",
  recallEvery: 0,
} as const satisfies KvRequest;

/** Dense layers where nobody says how many: `quest` has two in its paper. */
export function defaultDenseLayers(policy: PolicyName | undefined): number {
  return policy === "quest" ? 2 : 1;
}

/**
 * The budget that a table has of its own: the mean of its heads, in whole rows; undefined where it
 * names none.
 */
export function tableBudget({ layers }: KvTable): { readonly rows: number } | undefined {
  const mean = tableMean(layers);
  if (mean === undefined) return undefined;
  // A few rows of a few heads are not none.
  return { rows: mean > 0 ? Math.max(1, Math.round(mean)) : 0 };
}

/** Mean of all budgets of a table, unrounded. */
export function tableMean(layers: readonly KvTableLayer[]): number | undefined {
  const given = layers.flatMap(({ budgets }) => budgets ?? []);
  if (given.length === 0) return undefined;
  return given.reduce((sum, rows) => sum + rows, 0) / given.length;
}

/** Steps of a path into the `kv` object, by the names of the wire. */
export type KvPath = readonly (string | number)[];

/** A path as messages write it: `table.layers[2].role`. */
export function kvPathText(path: KvPath): string {
  return path.map((step, depth) =>
    typeof step === "number" ? `[${step}]` : `${depth === 0 ? "" : "."}${step}`
  ).join("");
}

/** Settings that cannot be. The message is a sentence without its full stop. */
export class KvSettingsError extends Error {
  override readonly name = "KvSettingsError";
  /** The field by the names of the HTTP API: `kv.table.layers[2].role`. */
  readonly param: string;

  /** @param rule What is wrong; completes the sentence "`field` ...". */
  constructor(readonly path: KvPath, readonly rule: string) {
    const param = kvPathText(["kv", ...path]);
    super(`\`${param}\` ${rule}`);
    this.param = param;
  }
}
