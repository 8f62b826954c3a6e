/** The `kv` object of a request as a JSON Schema, from the same bounds that check it. @module */
import { KV_RANGES, KV_WIRE_NAMES, MAX_BUDGET_ROWS } from "./settings_check.ts";
import { FETCH_MODES, type KvRequest, LAYER_ROLES, POLICY_NAMES } from "./settings_types.ts";

function whole([minimum, maximum]: readonly [number, number], description: string) {
  return { type: "integer", minimum, maximum, description };
}

const ROWS = { type: "integer", minimum: 0, maximum: MAX_BUDGET_ROWS };
const LAYER = {
  type: "object",
  properties: {
    role: { enum: LAYER_ROLES },
    budgets: { type: "array", items: ROWS, description: "rows of each KV head" },
    interval: whole(KV_RANGES.interval, "in place of the `interval` of all layers"),
  },
  required: ["role"],
  additionalProperties: false,
};

const MEMBERS: Readonly<Record<keyof KvRequest, object>> = {
  policy: { enum: POLICY_NAMES, description: "how the rows that a step attends to are chosen" },
  sinks: whole(KV_RANGES.sinks, "first rows that are always attended to"),
  window: whole(KV_RANGES.window, "most recent rows that are always attended to"),
  budget: {
    anyOf: [ROWS, { type: "string", pattern: "^\\s*(\\d+\\.?\\d*|\\.\\d+)\\s*%\\s*$" }],
    description: "rows beside those, or a share of all rows: `12.5%`",
  },
  interval: whole(KV_RANGES.interval, "rows are chosen anew every so many steps"),
  neighbours: { type: "boolean", description: "a run of chosen rows brings as many after it" },
  denseLayers: whole(KV_RANGES.denseLayers, "leading layers that attend to everything"),
  fetch: {
    enum: FETCH_MODES,
    description: "`ahead` fetches chosen rows while the next step computes",
  },
  recallEvery: whole(
    KV_RANGES.recallEvery,
    "measures on every so many steps what the chosen rows cover; 0 is off",
  ),
  table: {
    anyOf: [
      { type: "boolean" },
      {
        type: "object",
        properties: { layers: { type: "array", items: LAYER } },
        required: ["layers"],
        additionalProperties: false,
      },
    ],
    description:
      "role of each layer, rows of each KV head and interval, in place of `dense_layers`",
  },
};

/** The schema, by the names of the wire. */
export function kvShape() {
  const entries = Object.entries(KV_WIRE_NAMES) as [keyof KvRequest, string][];
  return {
    type: "object",
    properties: Object.fromEntries(entries.map(([key, name]) => [name, MEMBERS[key]])),
    additionalProperties: false,
  };
}
