/** Asks a model many questions, several at a time, each with settings of its own. @module */
import type { KvRequest } from "../../../butler/settings.ts";
import { DEFAULT_CACHE, DEFAULT_TIERS, type EngineOptions, GREEDY } from "../../../engine/types.ts";
import { CommandError } from "../../command.ts";
import { runGeneration } from "../../generation.ts";
import { predictorOptions } from "../../kv_flags.ts";
import { modelPath } from "../../model_flags.ts";
import type { Session } from "../../session.ts";
import type { Subject } from "./common.ts";

/** Something that is asked. */
export interface Question {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  readonly kv: KvRequest;
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
    kernelOverrides: Object.fromEntries(subject.kernel),
  };
}

/** Answers a question with the likeliest tokens, up to an end token. */
export async function answer(session: Session, question: Question): Promise<string> {
  const { text } = await runGeneration(session, {
    promptIds: question.promptIds,
    maxTokens: question.maxTokens,
    sampling: GREEDY,
    stop: [],
    ignoreEos: false,
    kv: question.kv,
  });
  return text ?? "";
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

  /** @throws {CommandError} If the model has no tokenizer. */
  static async create(session: Session): Promise<PromptWriter> {
    if (session.tokenizer === undefined) {
      throw new CommandError("this model has no tokenizer: it cannot read the questions");
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

  /** Ids of a user's message, and of how the answer begins. */
  async ids(message: string, prefix: string): Promise<number[]> {
    const { template, tokenizer } = this.#session;
    if (template === undefined) {
      const text = prefix === "" ? message : `${message}\n\n${prefix}`;
      return tokenizer!.encode(text, { parseSpecial: false, addBos: true });
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
