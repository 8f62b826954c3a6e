/** `generate`: text after a prompt. @module */
import { wireReport } from "../../butler/report.ts";
import { defineCommand } from "../command.ts";
import { switchFlag, valueFlag } from "../flags.ts";
import { runGeneration, timingsBody } from "../generation.ts";
import {
  checkFits,
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
import { prefillProgress } from "../progress.ts";
import { samplingFlags, samplingParams } from "../sampling_flags.ts";
import { type OpenSession, openSession, type Session } from "../session.ts";
import { anyText, integer, text } from "../values.ts";

/** The command, over a way to open a session. */
export function generateCommand(open: OpenSession) {
  return defineCommand({
    name: "generate",
    summary: "writes text after a prompt",
    usage: ["generate (--prompt TEXT | --prompt-file FILE | --ids X) [flags]"],
    notes: [
      "Special tokens written in a prompt count as such. A BOS token comes first where the model " +
      "file asks for it; ids are used as they are.",
      "The temperature is 0, so that the same prompt gives the same text, unless a flag says " +
      "otherwise.",
    ],
    flags: {
      prompt: valueFlag({
        group: "Prompt",
        help: "the prompt",
        placeholder: "TEXT",
        short: "p",
        schema: anyText,
        fallback: null,
      }),
      promptFile: valueFlag({
        group: "Prompt",
        help: "a UTF-8 file with the prompt; - is standard input",
        placeholder: "FILE",
        short: "f",
        schema: text,
        fallback: null,
      }),
      ids: valueFlag({
        group: "Prompt",
        help: "the prompt as token ids: a JSON array, or a file that holds one",
        placeholder: "X",
        schema: text,
        fallback: null,
      }),
      maxTokens: valueFlag({
        group: "Output",
        help: "tokens that are written at most",
        placeholder: "N",
        short: "n",
        schema: integer(1, 2 ** 31 - 1),
        fallback: 256,
      }),
      json: switchFlag({
        group: "Output",
        help:
          "prints one line of JSON at the end: prompt_ids, ids, text, finish_reason, timings, kv",
      }),
      ...samplingFlags(0),
      ...engineFlags,
      maxSeqs: maxSeqsFlag(1),
    },
    async run(settings, io) {
      const source = exactlyOne({
        "--prompt": settings.prompt,
        "--prompt-file": settings.promptFile,
        "--ids": settings.ids,
      });
      // Files and ids are read before the model is loaded: a mistake shows at once.
      const given = source === "--ids"
        ? readIds(settings.ids ?? "")
        : source === "--prompt"
        ? settings.prompt ?? ""
        : readTextFile(settings.promptFile ?? "", "--prompt-file");
      const session = await open(engineOptions(settings, settings.maxSeqs), io, "text");
      const prefill = prefillProgress(io);
      try {
        const promptIds = prompt(given, session);
        const { vocabSize } = session.engine.info.model;
        checkVocabulary(promptIds, vocabSize);
        checkFits(promptIds.length, session.engine.info.contextLength);
        const room = session.engine.info.contextLength - promptIds.length;
        const result = await runGeneration(session, {
          promptIds,
          maxTokens: Math.min(settings.maxTokens, room),
          sampling: samplingParams(settings),
          stop: settings.stop,
          ignoreEos: settings.ignoreEos,
        }, {
          onPrefill: (processed, total) => prefill.report(processed, total),
          onToken(id) {
            prefill.stop();
            if (!settings.json && session.tokenizer === undefined) io.stdout(`${id} `);
          },
          onText(piece) {
            if (!settings.json) io.stdout(piece);
          },
        });
        if (!settings.json) {
          io.stdout("\n");
          printKv(io, result.kv);
        } else {
          const line = {
            prompt_ids: promptIds,
            ids: result.ids,
            text: result.text,
            finish_reason: result.finishReason,
            timings: timingsBody(result.timings),
            kv: result.kv === null ? null : wireReport(result.kv),
          };
          io.stdout(`${JSON.stringify(line)}\n`);
        }
        return EXIT.ok;
      } finally {
        prefill.stop();
        await session.close();
      }
    },
  });
}

function prompt(given: string | number[], session: Session): number[] {
  if (typeof given !== "string") return given;
  return encodeText(needTokenizer(session.tokenizer), given, true);
}

export const command = generateCommand(openSession);
