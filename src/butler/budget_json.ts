/** Tables of budgets as JSON, as a predictor's file has them. @module */
import { z } from "zod";
import { type BudgetTable, numSelectedHeads } from "./budget_table.ts";
import { MAX_BUDGET_ROWS } from "./settings_check.ts";
import { kvPathText, LAYER_ROLES } from "./settings_types.ts";

/** Points that a table can have. */
const MOST_POINTS = 64;

/** A table that cannot be used. The message is a sentence without its full stop. */
export class BudgetTableError extends Error {
  override readonly name = "BudgetTableError";

  /** @param path Where in the table. */
  constructor(path: readonly PropertyKey[], rule: string, options?: ErrorOptions) {
    const where = kvPathText(path.map((step) => typeof step === "number" ? step : String(step)));
    super(`${where === "" ? "the budget table" : `${where} of the budget table`} ${rule}`, options);
  }
}

const rowsRule = `must be a whole number of rows from 0 to ${MAX_BUDGET_ROWS}`;
const rows = z.number({ error: rowsRule }).refine(
  (value) => Number.isInteger(value) && value >= 0 && value <= MAX_BUDGET_ROWS,
  { error: rowsRule },
);
const list = <T extends z.ZodType>(of: T) => z.array(of, { error: "must be a list" });
const tableSchema = z.strictObject({
  roles: list(z.enum(LAYER_ROLES, { error: `must be one of ${LAYER_ROLES.join(", ")}` })),
  points: list(z.strictObject({
    mean: z.number({ error: "must be a number" }),
    rows: list(list(rows)),
  }, { error: objectRule("mean and rows") })),
  restless: list(z.int({ error: "must be the index of a layer" })).exactOptional(),
}, { error: objectRule("roles and points") });

function objectRule(members: string) {
  return (issue: { readonly code?: string; readonly keys?: readonly string[] }) =>
    issue.code === "unrecognized_keys"
      ? `must not have the member ${JSON.stringify(String(issue.keys?.[0]).slice(0, 64))}`
      : `must be an object with ${members}`;
}

/**
 * The table of a predictor's file.
 *
 * @param json Parsed JSON.
 * @param shape Of the model that the predictor is for.
 * @throws {BudgetTableError} For anything else than a table of such a model.
 */
export function parseBudgetTable(
  json: unknown,
  shape: { readonly numLayers: number; readonly numKvHeads: number },
): BudgetTable {
  const parsed = tableSchema.safeParse(json);
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!;
    throw new BudgetTableError(path, message, { cause: parsed.error });
  }
  checkTable(parsed.data, shape);
  return parsed.data;
}

/** The JSON of a table, which {@linkcode parseBudgetTable} reads. */
export function formatBudgetTable({ roles, points, restless }: BudgetTable): unknown {
  return {
    roles: [...roles],
    points: points.map(({ mean, rows }) => ({ mean, rows: rows.map((heads) => [...heads]) })),
    ...(restless === undefined ? {} : { restless: [...restless] }),
  };
}

function checkTable(
  table: BudgetTable,
  { numLayers, numKvHeads }: { readonly numLayers: number; readonly numKvHeads: number },
): void {
  const { roles, points } = table;
  checkLength(["roles"], roles, numLayers, "layer");
  if (roles[0] === "selected") {
    throw new BudgetTableError(
      ["roles", 0],
      "must be dense or window: nothing predicts which rows the first layer needs",
    );
  }
  if (!roles.includes("selected")) {
    throw new BudgetTableError(["roles"], "must have a layer that is selected");
  }
  if (points.length < 1 || points.length > MOST_POINTS) {
    throw new BudgetTableError(
      ["points"],
      `must have 1 to ${MOST_POINTS} entries, not ${points.length}`,
    );
  }
  points.forEach(({ rows }, point) => {
    checkLength(["points", point, "rows"], rows, numLayers, "layer");
    rows.forEach((heads, layer) => {
      const path = ["points", point, "rows", layer];
      checkLength(path, heads, numKvHeads, "KV head");
      if (roles[layer] !== "selected" && heads.some((count) => count > 0)) {
        throw new BudgetTableError(path, `must be zeros, for the layer is ${roles[layer]}`);
      }
      const before = points[point - 1]?.rows[layer];
      const fewer = heads.findIndex((count, head) => count < (before?.[head] ?? 0));
      if (fewer >= 0) {
        throw new BudgetTableError(
          [...path, fewer],
          `must not be less than at the mean before, ${before![fewer]}, but is ${heads[fewer]}`,
        );
      }
    });
  });
  table.restless?.forEach((layer, i, all) => {
    if (roles[layer] !== "selected") {
      throw new BudgetTableError(["restless", i], `must be a layer that is selected, not ${layer}`);
    }
    if (i > 0 && layer <= all[i - 1]!) {
      throw new BudgetTableError(["restless", i], "must come after the layer before it");
    }
  });
  const numHeads = numSelectedHeads(table);
  points.forEach(({ mean, rows }, point) => {
    const path = ["points", point, "mean"];
    const before = points[point - 1]?.mean ?? 0;
    if (!(mean > before)) {
      const what = point === 0 ? "0" : `the mean before, ${before}`;
      throw new BudgetTableError(path, `must be more than ${what}, but is ${mean}`);
    }
    const total = rows.flat().reduce((sum, count) => sum + count, 0);
    // That of its rows but for rounding.
    if (Math.round(mean * numHeads) !== total) {
      throw new BudgetTableError(
        path,
        `must be the mean of its ${numHeads} heads, ${total / numHeads}, but is ${mean}`,
      );
    }
  });
}

function checkLength(
  path: readonly PropertyKey[],
  list: readonly unknown[],
  length: number,
  what: string,
): void {
  if (list.length === length) return;
  throw new BudgetTableError(
    path,
    `must have ${length} entries, one for each ${what} of the model, not ${list.length}`,
  );
}
