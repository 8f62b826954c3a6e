/** Asks a model many questions, several at a time, each with settings of its own. @module */
import { DEFAULT_CACHE, DEFAULT_TIERS, type EngineOptions, GREEDY } from "../../../engine/types.ts";
import { type PplCase, type PplRows, requestOfCase } from "../../../eval/ppl.ts";
import { MisfitError } from "../../command.ts";
import { runGeneration } from "../../generation.ts";
import { predictorOptions } from "../../kv_flags.ts";
import { modelPath } from "../../model_flags.ts";
import type { CliIo } from "../../io.ts";
import { timedBar } from "../../progress.ts";
import type { Session } from "../../session.ts";
import type { Subject } from "./common.ts";

/** Something that is asked, and how an answer to it scores. */
export interface Asked {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  /** 0 to 1. */
  score(answer: string): number;
}

/** What was answered in a case. */
export interface AnswerFigure extends PplCase {
  /** By sample; null: not asked yet. */
  readonly answers: ({ readonly text: string; readonly score: number } | null)[];
}

/** Samples that are asked in some cases. */
export interface AskedGroup {
  readonly figures: readonly AnswerFigure[];
  readonly count: number;
  /** Made when one of them is missing. */
  samples(): Promise<readonly Asked[]>;
}

/** Whether so many samples were asked: an earlier run may have been ended in the middle. */
export function isAsked({ answers }: AnswerFigure, count: number): boolean {
  return answers.filter((each) => each !== null).length >= count;
}

/** Mean score; 0 without answers. */
export function scoreOf({ answers }: AnswerFigure): number {
  const scores = answers.flatMap((each) => each === null ? [] : [each.score]);
  return scores.reduce((sum, score) => sum + score, 0) / Math.max(1, scores.length);
}

/** Host memory for prompts that are asked again under another policy. */
const PROMPT_BYTES = 2 * 2 ** 30;

/** Options of an engine that answers so many questions of at most so many tokens at a time. */
export function answerOptions(subject: Subject, tokens: number, batch: number): EngineOptions {
  return {
    modelPath: modelPath(subject),
    contextLength: tokens,
    maxSequences: batch,
    kvType: subject.kvType,
    prefillChunk: null,
    ...DEFAULT_CACHE,
    tiers: { ...DEFAULT_TIERS, hostBytes: PROMPT_BYTES },
    calibration: subject.calibration,
    ...predictorOptions(subject),
    importanceKeys: subject.importanceKeys,
    kernelOverrides: Object.fromEntries(subject.kernel),
  };
}

/** How to ask. */
export interface AskOptions {
  /** Of the progress bar. */
  readonly label: string;
  /** Samples that are answered together. */
  readonly batch: number;
  readonly rows: PplRows;
  /** Called after every answer. */
  readonly onAnswer: () => void;
}

/** Asks what is missing: the likeliest tokens, up to an end token. */
export async function askMissing(
  session: Session,
  io: CliIo,
  groups: readonly AskedGroup[],
  { label, batch, rows, onAnswer }: AskOptions,
): Promise<void> {
  const jobs: { readonly figure: AnswerFigure; readonly index: number; readonly asked: Asked }[] =
    [];
  for (const { figures, count, samples } of groups) {
    const isOpen = ({ answers }: AnswerFigure, index: number) => (answers[index] ?? null) === null;
    const indices = Array.from({ length: count }, (_, index) => index);
    if (figures.every((figure) => !indices.some((index) => isOpen(figure, index)))) continue;
    const asked = await samples();
    // Samples that are answered together are asked again before they make way for others.
    for (let first = 0; first < count; first += batch) {
      const some = indices.slice(first, first + batch);
      for (const figure of figures) {
        for (const index of some.filter((index) => isOpen(figure, index))) {
          jobs.push({ figure, index, asked: asked[index]! });
        }
      }
    }
  }
  if (jobs.length === 0) return;
  const bar = timedBar(io, label, jobs.length);
  let done = 0;
  try {
    await runAll(jobs, batch, async ({ figure, index, asked }) => {
      const { text } = await runGeneration(session, {
        promptIds: asked.promptIds,
        maxTokens: asked.maxTokens,
        sampling: GREEDY,
        stop: [],
        ignoreEos: false,
        kv: requestOfCase(figure, rows),
      });
      figure.answers[index] = { text: text ?? "", score: asked.score(text ?? "") };
      onAnswer();
      bar.update(++done);
    });
  } finally {
    bar.stop();
  }
}

/** Runs jobs in their order, so many at a time. */
export async function runAll<Job>(
  jobs: readonly Job[],
  atOnce: number,
  run: (job: Job) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (next < jobs.length && !failed) {
      const job = jobs[next++]!;
      try {
        await run(job);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, jobs.length) }, worker));
}

/** Writes prompts: in the form of a chat where the model has one. */
export class PromptWriter {
  readonly #session: Session;

  private constructor(session: Session, readonly overhead: number) {
    this.#session = session;
  }

  /** @throws {MisfitError} If the model has no tokenizer. */
  static async create(session: Session): Promise<PromptWriter> {
    if (session.tokenizer === undefined) {
      throw new MisfitError("this model has no tokenizer: it cannot read the questions");
    }
    const empty = await session.template?.render([{ role: "user", content: "." }], {
      addGenerationPrompt: true,
    });
    return new PromptWriter(session, empty?.ids.length ?? 1);
  }

  /** Tokens of a text inside others. */
  count(text: string): number {
    return text === "" ? 0 : this.#encode(text).length;
  }

  /** Ids of a text that goes on. */
  plainIds(text: string): number[] {
    return this.#session.tokenizer!.encode(text, { parseSpecial: false, addBos: true });
  }

  /** Text of ids that {@linkcode plainIds} gave. */
  textOf(ids: readonly number[]): string {
    return this.#session.tokenizer!.decode(ids, { skipSpecial: true });
  }

  /** Ids of a user's message, and of how the answer begins. */
  async ids(message: string, prefix: string): Promise<number[]> {
    const { template } = this.#session;
    if (template === undefined) {
      return this.plainIds(prefix === "" ? message : `${message}\n\n${prefix}`);
    }
    const { ids } = await template.render([{ role: "user", content: message }], {
      addGenerationPrompt: true,
    });
    return prefix === "" ? ids : [...ids, ...this.#encode(prefix)];
  }

  #encode(text: string): number[] {
    return this.#session.tokenizer!.encode(text, { parseSpecial: false, addBos: false });
  }
}
