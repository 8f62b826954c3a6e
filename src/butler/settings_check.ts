/**
 * Checks settings of the KV cache that are plain data from elsewhere: a request's body, a file, the
 * other side of a worker boundary. A list stops at its first bad element.
 *
 * @module
 */
import { nearest } from "../suggest.ts";
import {
  FETCH_MODES,
  type KvPath,
  type KvRequest,
  KvSettingsError,
  type KvTable,
  LAYER_ROLES,
  POLICY_NAMES,
} from "./settings_types.ts";

/** Most rows that a budget can name. */
export const MAX_BUDGET_ROWS = 2 ** 24;
/** Smallest and largest value of each whole number. Dense layers are bounded by the model too. */
export const KV_RANGES = {
  sinks: [0, 65_536],
  window: [1, 2 ** 20],
  interval: [1, 1024],
  denseLayers: [0, 4096],
  recallEvery: [0, 2 ** 20],
} as const satisfies Partial<Record<keyof KvRequest, readonly [number, number]>>;

/** Layers and KV heads that a table can have; the model's own numbers are checked later. */
const MAX_TABLE = 4096;
/** A name longer than this is not a mistyped one, and nothing to repeat in an answer. */
const MAX_NAME = 64;

/** Name of each setting on the wire, in the order in which replies have them. */
export const KV_WIRE_NAMES = {
  policy: "policy",
  sinks: "sinks",
  window: "window",
  budget: "budget",
  interval: "interval",
  neighbours: "neighbours",
  denseLayers: "dense_layers",
  fetch: "fetch",
  recallEvery: "recall_every",
  table: "table",
} as const satisfies Record<keyof KvRequest, string>;

/** Checks one value of a setting. */
type Check = (value: unknown, path: KvPath) => void;

const whole = ([least, most]: readonly [number, number]): Check => (value, path) => {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return;
  refuse(path, `must be a whole number from ${least} to ${most}`, value);
};

const word = (words: readonly string[]): Check => (value, path) => {
  if (typeof value === "string" && words.includes(value)) return;
  const near = typeof value === "string" && value.length <= MAX_NAME
    ? nearest(value, words)
    : undefined;
  refuse(path, `must be one of ${words.join(", ")}`, value, near);
};

const CHECKS: Readonly<Record<keyof KvRequest, Check>> = {
  policy: word(POLICY_NAMES),
  sinks: whole(KV_RANGES.sinks),
  window: whole(KV_RANGES.window),
  budget: checkBudget,
  interval: whole(KV_RANGES.interval),
  neighbours(value, path) {
    if (typeof value !== "boolean") refuse(path, "must be true or false", value);
  },
  denseLayers: whole(KV_RANGES.denseLayers),
  fetch: word(FETCH_MODES),
  recallEvery: whole(KV_RANGES.recallEvery),
  table(value, path) {
    if (typeof value === "boolean") return;
    if (!isRecord(value)) refuse(path, "must be true, false or an object with `layers`", value);
    checkTable(value, path);
  },
};

/** @throws {KvSettingsError} If a value is no {@linkcode KvRequest} with its numbers in range. */
export function checkKv(value: unknown): asserts value is KvRequest {
  if (!isRecord(value)) throw new KvSettingsError([], "must be an object");
  checkNames(value, Object.keys(CHECKS), [], "setting of the KV cache");
  for (const [key, check] of Object.entries(CHECKS)) {
    const member = value[key];
    if (member !== undefined) check(member, [KV_WIRE_NAMES[key as keyof KvRequest]]);
  }
  if (isRecord(value["table"]) && value["denseLayers"] !== undefined) {
    throw new KvSettingsError(
      [KV_WIRE_NAMES.table],
      `cannot be given together with \`${KV_WIRE_NAMES.denseLayers}\`: it says what each layer is`,
    );
  }
}

const BUDGET_RULE = `must be a whole number of rows from 0 to ${MAX_BUDGET_ROWS}, or a text ` +
  'like "12.5%", over 0 up to 100 %';

function checkBudget(value: unknown): void {
  if (!isRecord(value) || Object.keys(value).length !== 1) refuseBudget(value);
  const { rows, share } = value;
  if (typeof rows === "number") {
    if (!Number.isInteger(rows) || rows < 0 || rows > MAX_BUDGET_ROWS) refuseBudget(rows);
  } else if (typeof share === "number") {
    if (!(share > 0 && share <= 1)) refuseBudget(`${share * 100}%`);
  } else refuseBudget(value);
}

/** @throws {KvSettingsError} Always. */
export function refuseBudget(value: unknown): never {
  refuse([KV_WIRE_NAMES.budget], BUDGET_RULE, value);
}

/** @throws {KvSettingsError} If a value is no {@linkcode KvTable}. */
export function checkTable(value: unknown, path: KvPath = []): asserts value is KvTable {
  if (!isRecord(value)) refuse(path, "must be an object with `layers`", value);
  checkNames(value, ["layers"], path, "member of a table");
  checkList(value["layers"], [...path, "layers"], "a list of layers", (layer, at) => {
    if (!isRecord(layer)) refuse(at, "must be an object with `role`", layer);
    checkNames(layer, ["role", "budgets", "interval"], at, "member of a layer");
    const { role, budgets, interval } = layer;
    word(LAYER_ROLES)(role, [...at, "role"]);
    for (const [name, member] of Object.entries({ budgets, interval })) {
      if (member === undefined || role === "selected") continue;
      throw new KvSettingsError([...at, name], "is for layers of role selected only");
    }
    if (interval !== undefined) whole(KV_RANGES.interval)(interval, [...at, "interval"]);
    if (budgets === undefined) return;
    checkList(budgets, [...at, "budgets"], "a list of rows", whole([0, MAX_BUDGET_ROWS]));
  });
}

function checkList(value: unknown, path: KvPath, what: string, check: Check): void {
  if (!Array.isArray(value)) refuse(path, `must be ${what}`, value);
  if (value.length === 0) throw new KvSettingsError(path, "must not be empty");
  if (value.length > MAX_TABLE) {
    throw new KvSettingsError(path, `must have at most ${MAX_TABLE} entries, not ${value.length}`);
  }
  // By index: holes count too.
  for (let i = 0; i < value.length; i++) check(value[i], [...path, i]);
}

/**
 * @param what What a known name would be.
 * @throws {KvSettingsError} For a name that is not known: a misspelt setting that is passed over
 *   would silently change the output.
 */
export function checkNames(
  value: Readonly<Record<string, unknown>>,
  known: readonly string[],
  path: KvPath,
  what: string,
): void {
  const name = Object.keys(value).find((key) => !known.includes(key));
  if (name === undefined) return;
  if (name.length > MAX_NAME) {
    throw new KvSettingsError(path, `has a member of ${name.length} letters that is no ${what}`);
  }
  const near = nearest(name, known);
  const hint = near === undefined ? `there are ${known.join(", ")}` : `did you mean \`${near}\`?`;
  throw new KvSettingsError([...path, name], `is no ${what} (${hint})`);
}

/** Whether a value is an object with members of its own, no list. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function refuse(path: KvPath, rule: string, value: unknown, near?: string): never {
  const hint = near === undefined ? "" : ` (did you mean ${near}?)`;
  throw new KvSettingsError(path, `${rule}, but is ${shown(value)}${hint}`);
}

function shown(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "an object";
  const text = JSON.stringify(value) ?? "absent";
  return text.length > MAX_NAME ? `${text.slice(0, MAX_NAME)}...` : text;
}
