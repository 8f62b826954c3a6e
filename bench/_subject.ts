/** The model under measurement: an engine's parts, its configuration, and text to feed it. @module */
import type { CliIo } from "../src/cli/io.ts";
import { type engineFlags, engineOptions } from "../src/cli/model_flags.ts";
import { loadProgress } from "../src/cli/progress.ts";
import type { Settings } from "../src/cli/flags.ts";
import { createEngineParts, type EngineParts } from "../src/engine/create.ts";
import type { SampleSpec } from "../src/engine/runner_types.ts";
import { GREEDY } from "../src/engine/types.ts";
import { openModel } from "../src/model/open.ts";
import type { ModelConfig } from "../src/model/types.ts";
import { loadTokenizer } from "../src/tokenizer/load.ts";
import type { Case } from "./_report.ts";
import { BENCH_TEXT } from "./_text.ts";
import { type ProductShape, productShapes } from "./_work.ts";

/** A model that is ready to run steps. */
export interface Subject extends Disposable {
  readonly parts: EngineParts;
  readonly config: ModelConfig;
  readonly shapes: readonly ProductShape[];
  /** Token ids of real text. */
  readonly ids: readonly number[];
  /** What every case of a report says. */
  readonly common: Case;
}

/** Greedy choice, nothing asked for beside the token. */
export const PLAIN: SampleSpec = {
  ...GREEDY,
  step: 0,
  adjustments: [],
  forced: null,
  logprobs: null,
};

/**
 * Starts the parts of an engine.
 *
 * @param contextLength Rows that each sequence needs, unless the settings ask for more.
 * @throws {ModelFileError} If the model cannot be used.
 * @throws {DeviceError} If there is no device, or not one that is good enough.
 */
export async function openSubject(
  settings: Settings<typeof engineFlags>,
  io: CliIo,
  maxSequences: number,
  contextLength: number,
): Promise<Subject> {
  const options = engineOptions(settings, maxSequences);
  const source = await openModel(options.modelPath);
  const { config } = source;
  const shapes = productShapes(source);
  const tokenizer = source.tokenizer &&
    loadTokenizer(source.tokenizer, source.path, config.vocabSize);
  source.close();
  const ids = tokenizer?.encode(BENCH_TEXT, { addBos: false, parseSpecial: false }) ??
    plausibleIds(config.vocabSize);
  const progress = loadProgress(io);
  const parts = await createEngineParts(
    { ...options, contextLength: Math.max(options.contextLength ?? 0, contextLength) },
    progress.report,
  );
  progress.stop();
  const { info } = parts;
  return {
    parts,
    config,
    shapes,
    ids,
    common: {
      device: info.adapter.description,
      model: `${info.model.name} ${shapes[0]?.type ?? ""}`,
      kv: info.kv.type,
    },
    [Symbol.dispose]: () => void parts.dispose(),
  };
}

/** Ids for a model without a tokenizer: spread over the vocabulary, the same every time. */
function plausibleIds(vocabSize: number): number[] {
  let state = 12345;
  return Array.from({ length: 8192 }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % vocabSize;
  });
}

/** `count` ids from `offset` on; the text begins again where it ends. */
export function textIds(subject: Subject, offset: number, count: number): number[] {
  const { ids } = subject;
  return Array.from({ length: count }, (_, index) => ids[(offset + index) % ids.length]!);
}

/**
 * Puts a prompt into a slot, in chunks as the engine does.
 *
 * @returns The token that follows.
 */
export async function fill(
  { parts }: Subject,
  slot: number,
  tokens: readonly number[],
): Promise<number> {
  const { runner, kv, info } = parts;
  kv.release(slot);
  kv.reserve(slot, tokens.length);
  for (let start = 0; start < tokens.length; start += info.prefillChunk) {
    const chunk = tokens.slice(start, start + info.prefillChunk);
    const last = start + chunk.length === tokens.length;
    const sample = last ? PLAIN : null;
    const { sampled } = await runner.prefill({
      slot,
      start,
      tokens: chunk,
      total: tokens.length,
      sample,
      scoring: null,
    });
    if (sampled !== null) return sampled.token;
  }
  throw new RangeError("the prompt is empty");
}
