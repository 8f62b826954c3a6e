/** `score`: how well the model predicts a text, token by token. @module */
import { wireReport } from "../../butler/report.ts";
import type { KvReport } from "../../butler/settings.ts";
import { GREEDY } from "../../engine/types.ts";
import { CommandError, defineCommand, MisfitError } from "../command.ts";
import { engineFailure } from "../generation.ts";
import { switchFlag, UsageError, valueFlag } from "../flags.ts";
import {
  checkVocabulary,
  encodeText,
  exactlyOne,
  needTokenizer,
  readIds,
  readTextFile,
} from "../inputs.ts";
import { EXIT } from "../io.ts";
import { printKv } from "../kv_report.ts";
import { engineFlags, engineOptions, maxSeqsFlag } from "../model_flags.ts";
import { prefillProgress, progressBar } from "../progress.ts";
import { type OpenSession, openSession, type Session } from "../session.ts";
import { integer, text } from "../values.ts";

/** How well ids were predicted. */
export interface Score {
  /** One number for each id fed that has a successor: entry i belongs to id prefill + 1 + i. */
  readonly nll: readonly number[];
  readonly kv: KvReport | null;
}

/**
 * Negative log-likelihoods of `ids` after the first `prefill` of them, which are prefilled; the
 * others are fed one at a time, as decoding would.
 *
 * @throws {CommandError} If the engine reports an error.
 */
export async function scoreIds(
  session: Session,
  ids: readonly number[],
  prefill: number,
  listener: {
    onPrefill?(processed: number, total: number): void;
    onToken?(done: number): void;
  } = {},
): Promise<Score> {
  const id = "score";
  const forcedIds = ids.slice(prefill);
  const nll: number[] = [];
  let kv: KvReport | null = null;
  let fed = 0;
  for await (
    const event of session.engine.generate({
      id,
      promptIds: ids.slice(0, prefill),
      maxTokens: forcedIds.length,
      minTokens: 0,
      stopTokenIds: [],
      bannedTokenIds: [],
      sampling: GREEDY,
      logprobs: 0,
      promptLogprobs: null,
      forcedIds,
      // What is measured is the prompt's own prefill.
      cachePrompt: false,
    })
  ) {
    if (event.type === "prefill") listener.onPrefill?.(event.processed, event.total);
    if (event.type === "done") kv = event.kv;
    if (event.type === "error") throw engineFailure(event.error);
    if (event.type !== "token") continue;
    if (event.logprob === null) throw new CommandError("the engine gave no log-probability");
    // The first one was predicted by the prefill, not by a decoding step: it is not counted.
    if (fed > 0) nll.push(-event.logprob.logprob);
    fed += 1;
    listener.onToken?.(fed);
  }
  return { nll, kv };
}

/** The command, over a way to open a session. */
export function scoreCommand(open: OpenSession) {
  return defineCommand({
    name: "score",
    summary: "measures how well the model predicts a text",
    usage: ["score (--text-file FILE | --ids X) [--prefill N] [flags]"],
    notes: [
      "Prints the mean negative log-likelihood (natural logarithm) of the tokens after the " +
      "prefilled ones. With --json: nll, one number for each token that was fed and has a " +
      "successor (nll[i] belongs to id N+1+i, ids counted from 0), mean, and kv, what was done with " +
      "the KV cache.",
      "Special tokens written in the text file are plain text. A BOS token comes first where the " +
      "model file asks for it; ids are used as they are.",
    ],
    flags: {
      textFile: valueFlag({
        group: "Text",
        help: "a UTF-8 file with the text; - is standard input",
        placeholder: "FILE",
        short: "f",
        schema: text,
        fallback: null,
      }),
      ids: valueFlag({
        group: "Text",
        help: "the text as token ids: a JSON array, or a file that holds one",
        placeholder: "X",
        schema: text,
        fallback: null,
      }),
      prefill: valueFlag({
        group: "Text",
        help: "tokens that are prefilled; the others are fed one at a time",
        placeholder: "N",
        schema: integer(1, 2 ** 31 - 1),
        fallback: null,
        fallbackText: "half of them",
      }),
      json: switchFlag({ group: "Output", help: "prints one line of JSON: nll, mean, kv" }),
      ...engineFlags,
      maxSeqs: maxSeqsFlag(1),
    },
    async run(settings, io) {
      const source = exactlyOne({ "--text-file": settings.textFile, "--ids": settings.ids });
      const given = source === "--ids"
        ? readIds(settings.ids ?? "")
        : readTextFile(settings.textFile ?? "", "--text-file");
      const session = await open(engineOptions(settings, settings.maxSeqs), io, "text");
      const bar = prefillProgress(io);
      try {
        const ids = typeof given === "string"
          ? encodeText(needTokenizer(session.tokenizer), given, false)
          : given;
        const { contextLength, model } = session.engine.info;
        checkVocabulary(ids, model.vocabSize);
        const prefill = prefillLength(ids.length, settings.prefill);
        if (ids.length > contextLength) {
          throw new MisfitError(
            `the text has ${ids.length} tokens, but the context holds ${contextLength}: shorten ` +
              "it, or ask for more with --context",
          );
        }
        const steps = progressBar(io, "Scoring", ids.length - prefill);
        let score: Score;
        try {
          score = await scoreIds(session, ids, prefill, {
            onPrefill: (processed, total) => bar.report(processed, total),
            onToken(done) {
              bar.stop();
              steps.update(done);
            },
          });
        } finally {
          steps.stop();
        }
        const { nll, kv } = score;
        const mean = nll.reduce((sum, value) => sum + value, 0) / nll.length;
        if (settings.json) {
          const line = { nll, mean, kv: kv === null ? null : wireReport(kv) };
          io.stdout(`${JSON.stringify(line)}\n`);
        } else {
          io.stdout(
            `mean negative log-likelihood ${mean.toFixed(6)} over ${nll.length} tokens ` +
              `(perplexity ${Math.exp(mean).toFixed(4)})\n`,
          );
          printKv(io, kv);
        }
        return EXIT.ok;
      } finally {
        bar.stop();
        await session.close();
      }
    },
  });
}

function prefillLength(numIds: number, asked: number | null): number {
  const prefill = asked ?? Math.max(1, Math.floor(numIds / 2));
  if (numIds - prefill >= 2) return prefill;
  if (asked === null) {
    throw new MisfitError(`there is nothing to score: ${numIds} tokens, at least 3 are needed`);
  }
  throw new UsageError(
    `--prefill: ${numIds} tokens with ${prefill} prefilled leave nothing to score, the largest ` +
      `is ${numIds - 2}`,
  );
}

export const command = scoreCommand(openSession);
