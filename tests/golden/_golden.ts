/**
 * The stored answers that end-to-end tests compare with, and the bounds they promise.
 *
 * @module
 */
import { assetPath, DEFAULT_MODEL } from "../../src/assets.ts";
import { assert } from "std-testing";

const DATA = new URL("../data/", import.meta.url);

/** The default model's file. */
export const SMOLLM2_PATH = assetPath(DEFAULT_MODEL.path);

/** Largest logit error and smallest margin that count, as the project promises them. */
export const TINY_LOGIT_BOUND = 2e-3;
export const SMOLLM2_LOGIT_BOUND = 0.05;
export const SMALL_MARGIN = 0.03;

/** Stored answers for a tiny model. */
export interface TinyExpected {
  readonly ids: readonly number[];
  readonly positions: readonly number[];
  /** Logits after the token at a position. */
  readonly logits: Readonly<Record<string, readonly number[]>>;
  readonly nll: readonly number[];
  readonly greedy_from_first_16: readonly number[];
}

/** A tiny model: its path and its answers. */
export interface TinyModel {
  readonly name: string;
  readonly path: string;
  readonly expected: TinyExpected;
}

/** Stored answers for one prompt of the default model. */
export interface PromptExpected {
  readonly name: string;
  readonly ids: readonly number[];
  readonly last_top20_ids: readonly number[];
  readonly last_top20_logits: readonly number[];
  readonly last_logits_every_4096th: readonly number[];
  readonly last_logsumexp: number;
  readonly greedy_ids: readonly number[];
  readonly greedy_margins: readonly number[];
  readonly greedy_logprobs: readonly number[];
}

/** Stored negative log-likelihoods of a text under the default model. */
export interface NllExpected {
  readonly name: string;
  readonly ids: readonly number[];
  readonly nll: readonly number[];
  readonly mean: number;
}

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await Deno.readTextFile(new URL(path, DATA))) as T;
}

/** All tiny models: six folders, four GGUF files. */
export async function tinyModels(): Promise<readonly TinyModel[]> {
  const load = async (file: string, extension: string) => {
    const answers = await readJson<Record<string, TinyExpected>>(`tiny/${file}`);
    return Object.entries(answers).map(([name, expected]) => ({
      name,
      path: new URL(`tiny/${name}${extension}`, DATA).pathname,
      expected,
    }));
  };
  return [...await load("expected.json", ""), ...await load("expected-gguf.json", ".gguf")];
}

/** One tiny model. */
export async function tinyModel(name: string): Promise<TinyModel> {
  const found = (await tinyModels()).find((model) => model.name === name);
  assert.ok(found, `no tiny model ${name}`);
  return found;
}

/** Prompts of the default model. */
export function smollm2Prompts(): Promise<readonly PromptExpected[]> {
  return readJson("smollm2/prompts.json");
}

/** A step of the default model under a selection policy. */
export interface SparseStep {
  readonly pos: number;
  readonly top5_ids: readonly number[];
  readonly top5_logits: readonly number[];
  readonly logsumexp: number;
  readonly next_nll: number;
}

/** Steps of the default model after a prompt, by policy. */
export interface SparseExpected {
  readonly S: number;
  readonly W: number;
  readonly B: number;
  readonly prefill: number;
  readonly ids: readonly number[];
  readonly policies: Readonly<
    Record<"dense" | "streaming" | "oracle", {
      readonly steps: readonly SparseStep[];
      /** By layer and KV head: positions that the first step attends to beside sinks and window. */
      readonly first_step_rows_of_layer?: Readonly<Record<string, readonly (readonly number[])[]>>;
    }>
  >;
}

/** The default model under selection. */
export function smollm2Sparse(): Promise<SparseExpected> {
  return readJson("smollm2/sparse.json");
}

/** Scored texts of the default model. */
export function smollm2Nll(): Promise<readonly NllExpected[]> {
  return readJson("smollm2/nll.json");
}

/** Largest absolute difference; NaN counts as infinite. */
export function maxError(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  assert.equal(got.length, wanted.length, "lengths differ");
  let most = 0;
  for (let i = 0; i < got.length; i++) {
    const error = Math.abs(got[i]! - wanted[i]!);
    most = Math.max(most, Number.isNaN(error) ? Infinity : error);
  }
  return most;
}

/** Arithmetic mean. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Tokens before the first one whose choice was too close to call. */
export function numCertain(margins: readonly number[], smallest: number): number {
  const index = margins.findIndex((value) => value < smallest);
  return index < 0 ? margins.length : index;
}

/** A figure for the log, in a form that fits one line. */
export function figure(value: number): string {
  return value === 0 ? "0" : value.toExponential(2);
}
