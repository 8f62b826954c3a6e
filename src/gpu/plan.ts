/**
 * Which variant of each kernel an adapter gets: the one table where the choice is made. Every entry
 * can be overridden by name, for tuning and for tests.
 *
 * @module
 */
import { type DeviceCaps, DeviceError } from "./device.ts";
import { ATTENTION_FORMS, type AttentionForm } from "./ops/attention.ts";

/** Sizes that kernels are compiled with. */
export interface KernelPlan {
  /** Lanes of a matrix product; one subgroup where `subgroups` is set. */
  readonly matmulLanes: number;
  /** Rows of a tile with few tokens, and with the most; multiples of 4. */
  readonly matvecRows: number;
  readonly matmulRows: number;
  /** Tokens that a tile may have, ascending, 1 first; the smallest that holds a batch is taken. */
  readonly tokenTiles: readonly number[];
  /**
   * Tokens of tiles in which a lane has tokens of its own, ascending; where a matrix allows it they
   * stand in for all of `tokenTiles` that are as large as the first. None without subgroups.
   */
  readonly laneTiles: readonly number[];
  /** Rows of those tiles, a multiple of 2 x matmulLanes. */
  readonly laneRows: number;
  /** Use subgroup operations. */
  readonly subgroups: boolean;
  /** Lanes of norms, rotation, embedding and merge. */
  readonly rowLanes: number;
  readonly attentionLanes: number;
  /** Keys of a split of decode attention. */
  readonly attentionSplit: number;
  /** Queries (rows x heads of a group) that share keys in prefill, at most. */
  readonly attentionQueries: number;
  /** `queries` is for prompts; decoding, and where it cannot be had, it stands for `lanes`. */
  readonly attentionForm: AttentionForm;
}

/**
 * A CPU runs a subgroup as one vector: one subgroup is a workgroup, barriers are dear, registers
 * spill into cache. A GPU wants more lanes and fewer registers.
 */
const SOFTWARE: KernelPlan = {
  matmulLanes: 8,
  matvecRows: 16,
  matmulRows: 32,
  tokenTiles: [1, 4, 8],
  laneTiles: [8, 32],
  laneRows: 32,
  subgroups: true,
  rowLanes: 8,
  attentionLanes: 8,
  attentionSplit: 256,
  attentionQueries: 6,
  attentionForm: "queries",
};

const HARDWARE: KernelPlan = {
  matmulLanes: 32,
  matvecRows: 4,
  matmulRows: 4,
  tokenTiles: [1, 2, 4, 8],
  laneTiles: [],
  laneRows: 64,
  subgroups: true,
  rowLanes: 32,
  attentionLanes: 64,
  attentionSplit: 256,
  attentionQueries: 8,
  attentionForm: "tiled",
};

/** Queries of a lane, in vec4s, up to which a software adapter's compiler takes seconds. */
export const MOST_LANE_QUADS = 96;

/**
 * llvmpipe silently ends every loop of an invocation after 65,535 turns in all; attention over a
 * prompt takes 29 turns for 32 keys in the form `lanes`, and 5 in `queries`. Selection is tested up
 * to 131,072 rows.
 */
const SOFTWARE_CONTEXT = { lanes: 65536, queries: 131072 } as const;

/**
 * Tokens of context that the kernels are right for; Infinity where only memory sets a limit.
 *
 * @param model Decides on the form of attention.
 */
export function contextLimit(
  caps: Pick<DeviceCaps, "software">,
  plan: KernelPlan,
  model: { readonly numHeads: number; readonly numKvHeads: number; readonly headDim: number },
): number {
  if (!caps.software) return Infinity;
  const quads = model.numHeads / model.numKvHeads * model.headDim / 4;
  const queries = attentionFormOf(plan, "prefill") === "queries" && quads <= MOST_LANE_QUADS;
  return SOFTWARE_CONTEXT[queries ? "queries" : "lanes"];
}

/** The form of attention for decoding or for the rows of a prompt. */
export function attentionFormOf(plan: KernelPlan, kind: "decode" | "prefill"): AttentionForm {
  if (plan.attentionForm !== "queries") return plan.attentionForm;
  // Keys pass from lane to lane by shuffles.
  const shuffles = plan.subgroups && plan.attentionLanes === plan.matmulLanes;
  return kind === "prefill" && shuffles ? "queries" : "lanes";
}

/** Names that {@linkcode selectPlan} takes as overrides. */
export const PLAN_NAMES = Object.keys(SOFTWARE) as readonly (keyof KernelPlan)[];

/**
 * Chooses the sizes for an adapter.
 *
 * @param overrides Values by name, as text: numbers, `true` / `false`, lists with commas or `none`.
 * Names of other tables are passed over.
 * @throws {DeviceError} If a value makes no sense for this adapter.
 */
export function selectPlan(
  caps: DeviceCaps,
  overrides: Readonly<Record<string, string>> = {},
): KernelPlan {
  const base = caps.software ? SOFTWARE : HARDWARE;
  // Sums over a subgroup stand for sums over the workgroup, so its size must be known.
  const fixed = caps.subgroups && caps.subgroupMin === caps.subgroupMax && caps.subgroupMin >= 4;
  const lanes = fixed ? caps.subgroupMin : base.matmulLanes;
  const chosen: Record<string, unknown> = {
    ...base,
    subgroups: fixed,
    matmulLanes: lanes,
    rowLanes: fixed ? lanes : base.rowLanes,
  };
  for (const [name, text] of Object.entries(overrides)) {
    if (!(name in base)) continue;
    const old = chosen[name];
    if (typeof old === "boolean" && text !== "true" && text !== "false") {
      throw new DeviceError("bad_setting", `kernel setting ${name}=${text} is not true or false`);
    }
    const value = Array.isArray(old)
      ? (text === "none" ? [] : text.split(",").map(Number))
      : typeof old === "boolean"
      ? text === "true"
      : typeof old === "string"
      ? text
      : Number(text);
    const numbers = Array.isArray(value) ? value : typeof value === "number" ? [value] : [];
    if (numbers.some((n) => !Number.isInteger(n) || n < 1)) {
      throw new DeviceError(
        "bad_setting",
        `kernel setting ${name}=${text} is not a whole number above 0`,
      );
    }
    chosen[name] = value;
  }
  if (chosen["subgroups"] === false && !("laneTiles" in overrides)) chosen["laneTiles"] = [];
  const plan = chosen as unknown as KernelPlan;
  checkPlan(plan, caps);
  return plan;
}

function checkPlan(plan: KernelPlan, caps: DeviceCaps): void {
  const refuse = (what: string) => {
    throw new DeviceError("bad_setting", `kernel settings do not fit this adapter: ${what}`);
  };
  for (const name of ["matmulLanes", "rowLanes", "attentionLanes"] as const) {
    const lanes = plan[name];
    if (lanes > caps.maxWorkgroupSize || (lanes & (lanes - 1)) !== 0) {
      refuse(`${name} ${lanes} is no power of two up to ${caps.maxWorkgroupSize}`);
    }
  }
  if (plan.subgroups && !caps.subgroups) refuse("subgroups are not available");
  if (plan.subgroups && plan.matmulLanes !== caps.subgroupMin) {
    refuse(`matmulLanes must be the subgroup size, ${caps.subgroupMin}`);
  }
  if (plan.subgroups && plan.rowLanes !== caps.subgroupMin) {
    refuse(`rowLanes must be the subgroup size, ${caps.subgroupMin}`);
  }
  if (!ATTENTION_FORMS.includes(plan.attentionForm)) {
    refuse(`attentionForm must be one of ${ATTENTION_FORMS.join(", ")}`);
  }
  if (plan.tokenTiles[0] !== 1) refuse("tokenTiles must begin with 1");
  if (plan.matvecRows % 4 !== 0 || plan.matmulRows % 4 !== 0) {
    refuse("matvecRows and matmulRows must be multiples of 4");
  }
  if (plan.attentionSplit % (plan.attentionLanes * 4) !== 0) {
    refuse("attentionSplit must be a multiple of 4 x attentionLanes");
  }
  if (plan.laneTiles.length > 0) {
    const lanes = plan.matmulLanes;
    if (!plan.subgroups) refuse("laneTiles need subgroups");
    if (
      plan.laneTiles.some((tokens) => tokens % lanes !== 0) || plan.laneRows % (2 * lanes) !== 0
    ) {
      refuse(`laneTiles must be multiples of ${lanes}, laneRows of ${2 * lanes}`);
    }
  }
  const tokens = plan.tokenTiles.at(-1)!;
  const sums = Math.max(plan.matvecRows, plan.matmulRows * tokens) *
    (plan.subgroups ? 1 : plan.matmulLanes) * 4;
  if (sums > caps.maxWorkgroupStorage) refuse(`a product tile needs ${sums} bytes`);
}
