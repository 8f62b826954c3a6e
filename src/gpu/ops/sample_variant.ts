/**
 * Which variant of the sampling kernels an adapter gets, and what is compiled for it. Subgroup
 * operations are not used: a row takes a few dozen reductions in all, and without them the sums are
 * the same on every adapter with the same workgroup size.
 *
 * @module
 */
import { MAX_TOP_LOGPROBS } from "../../engine/types.ts";
import { type DeviceCaps, DeviceError } from "../device.ts";
import type { KernelSpec } from "../kernels.ts";
import { defineParams } from "../params.ts";

/** What is compiled in. */
export interface SampleVariant {
  /** Lanes of a workgroup. */
  readonly workgroup: 8 | 64 | 256;
  /**
   * Lanes of the pick with filters. llvmpipe ends every loop once an invocation has made 65,535
   * turns in all its loops together, and says nothing. A pick with filters goes over the row up to
   * 70 times in the worst case; with 64 lanes and four entries a turn that fits vocabularies up to
   * 200,000, and above them 256 lanes are taken.
   */
  readonly filterWorkgroup: 64 | 256;
  /** Pieces a row is cut into by the scan. */
  readonly splits: 16 | 64;
  /** Logits a lane reads in one turn of a loop. */
  readonly unroll: 4;
}

const WORKGROUPS: readonly SampleVariant["workgroup"][] = [8, 64, 256];
const SPLITS: readonly SampleVariant["splits"][] = [16, 64];

/** Largest vocabulary for which 64 lanes keep the number of loop turns down on llvmpipe. */
const LARGE_VOCABULARY = 200_000;

function choose<T extends number>(
  name: string,
  choices: readonly T[],
  given: string | undefined,
  table: T,
): T {
  const found = given === undefined ? table : choices.find((choice) => String(choice) === given);
  if (found === undefined) {
    throw new DeviceError(
      "bad_setting",
      `${name} must be one of ${choices.join(", ")}, got ${given}`,
    );
  }
  return found;
}

/**
 * The variant for an adapter.
 *
 * @param overrides `sample_wg` (8, 64, 256) and `sample_splits` (16, 64) replace the table.
 * @throws {DeviceError} If an override is not one of these, or too large for the adapter.
 */
export function selectSampleVariant(
  caps: DeviceCaps,
  vocabSize: number,
  overrides: Readonly<Record<string, string>> = {},
): SampleVariant {
  const largest = caps.maxWorkgroupSize >= 256 ? 256 : 64;
  const workgroup = choose(
    "sample_wg",
    WORKGROUPS.filter((size) => size <= largest),
    overrides.sample_wg,
    caps.software ? 8 : largest,
  );
  const splits = choose("sample_splits", SPLITS, overrides.sample_splits, caps.software ? 16 : 64);
  const filterWorkgroup = vocabSize > LARGE_VOCABULARY || workgroup === 256 ? largest : 64;
  return { workgroup, filterWorkgroup, splits, unroll: 4 };
}

/** Readable name: `sample_wg8_f64_s16`. */
export function sampleVariantName(variant: SampleVariant): string {
  return `sample_wg${variant.workgroup}_f${variant.filterWorkgroup}_s${variant.splits}`;
}

/** What a row asks for; an element of a storage buffer, 64 bytes. */
export const SampleRowParams = defineParams("SampleRow", {
  /** Bits for the scan of the raw logits: 1 maximum, 2 sum at temperature 1, 4 sum at its own. */
  wants_raw: "u32",
  /** The same for the scan of the adjusted logits. */
  wants_adjusted: "u32",
  /** Bits: 1 top-k, 2 typical, 4 top-p, 8 min-p. */
  filters: "u32",
  /** 1 where log-probabilities are wanted. */
  report: "u32",
  /** Alternatives to report. */
  top: "u32",
  /** Token to take, or 0xffffffff. */
  forced: "u32",
  /** Where in `last_tokens` the token goes; beyond its end: nowhere. */
  slot: "u32",
  adjust_first: "u32",
  adjust_count: "u32",
  top_k: "u32",
  /** 0 is greedy. */
  inverse_temperature: "f32",
  random: "f32",
  typical_p: "f32",
  top_p: "f32",
  /** -ln(min-p): how far below the largest logit the last one kept may be. */
  min_p_depth: "f32",
  padding: "u32",
});

/** What all rows share. */
export const SampleParams = defineParams("SampleParams", {
  vocab: "u32",
  /** Logits in a piece. */
  piece: "u32",
  list_capacity: "u32",
  num_rows_max: "u32",
  /** Of the scan: 0 raw logits, 1 adjusted ones. */
  phase: "u32",
});

/** Words of a result before the alternatives. */
export const HEADER_WORDS = 4;
/** Words of a result. */
export const RESULT_WORDS = HEADER_WORDS + 2 * MAX_TOP_LOGPROBS;

const STRUCTS = [SampleRowParams, SampleParams];

/** The kernels of a variant. `pickPlain` has no filters in it. */
export function sampleKernels(variant: SampleVariant): {
  readonly scan: KernelSpec;
  readonly adjust: KernelSpec;
  readonly pickPlain: KernelSpec;
  readonly pickFiltered: KernelSpec;
} {
  const name = sampleVariantName(variant);
  const common = { SPLITS: variant.splits, UNROLL: variant.unroll };
  const defines = { ...common, WG: variant.workgroup };
  const pick = (filters: boolean): KernelSpec => {
    const lanes = filters ? variant.filterWorkgroup : variant.workgroup;
    return {
      shader: "sample_pick",
      variant: `${name}_pick_${filters ? "filtered" : "plain"}`,
      defines: {
        ...common,
        WG: lanes,
        TABLE: Math.max(lanes, variant.splits),
        FILTERS: filters,
        RESULT_WORDS,
        HEADER_WORDS,
      },
      bindings: ["read", "read", "write", "read", "write", "write", "write", "uniform"],
      structs: STRUCTS,
    };
  };
  return {
    scan: {
      shader: "sample_scan",
      variant: `${name}_scan`,
      defines,
      bindings: ["read", "read", "write", "uniform"],
      structs: STRUCTS,
    },
    adjust: {
      shader: "sample_adjust",
      variant: `${name}_adjust`,
      defines,
      bindings: ["read", "write", "write", "uniform"],
      structs: STRUCTS,
    },
    pickPlain: pick(false),
    pickFiltered: pick(true),
  };
}
