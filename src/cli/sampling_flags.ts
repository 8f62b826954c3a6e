/** The flags that say how tokens are chosen. @module */
import type { SamplingParams } from "../engine/types.ts";
import { listFlag, type Settings, switchFlag, valueFlag } from "./flags.ts";
import { decimal, integer, text, tokenBias } from "./values.ts";

const group = "Sampling";

/** Sampling flags with the temperature that a command starts from. */
export function samplingFlags(temperature: number) {
  return {
    temperature: valueFlag({
      group,
      help: "0 always takes the likeliest token, higher is more varied; 0 to 2",
      placeholder: "T",
      schema: decimal(0, 2),
      fallback: temperature,
    }),
    topK: valueFlag({
      group,
      help: "keeps the K likeliest tokens; 0 is off",
      placeholder: "K",
      schema: integer(0, 2 ** 31 - 1),
      fallback: 0,
    }),
    topP: valueFlag({
      group,
      help: "keeps the likeliest tokens that together have this probability; 1 is off",
      placeholder: "P",
      schema: decimal(0, 1),
      fallback: 1,
    }),
    minP: valueFlag({
      group,
      help: "keeps tokens at least this likely relative to the likeliest; 0 is off",
      placeholder: "P",
      schema: decimal(0, 1),
      fallback: 0,
    }),
    typicalP: valueFlag({
      group,
      help: "locally typical sampling; 1 is off",
      placeholder: "P",
      schema: decimal(0, 1),
      fallback: 1,
    }),
    repetitionPenalty: valueFlag({
      group,
      help: "makes tokens that were there before less likely, 0 to 10; 1 is off",
      placeholder: "X",
      aliases: ["repeat-penalty"],
      schema: decimal(0, 10),
      fallback: 1,
    }),
    repeatLastN: valueFlag({
      group,
      help: "tokens that the repetition penalty looks back on; -1 is all",
      placeholder: "N",
      schema: integer(-1, 2 ** 31 - 1),
      fallback: 64,
    }),
    frequencyPenalty: valueFlag({
      group,
      help: "taken from a token's logit each time the answer has it, -2 to 2",
      placeholder: "X",
      schema: decimal(-2, 2),
      fallback: 0,
    }),
    presencePenalty: valueFlag({
      group,
      help: "taken once from the logit of a token that the answer has, -2 to 2",
      placeholder: "X",
      schema: decimal(-2, 2),
      fallback: 0,
    }),
    logitBias: listFlag({
      group,
      help: "adds BIAS (-100 to 100) to the logit of the token ID",
      placeholder: "ID=BIAS",
      schema: tokenBias,
    }),
    seed: valueFlag({
      group,
      help: "the same seed gives the same text again",
      placeholder: "N",
      schema: integer(0, 2 ** 32 - 1),
      fallback: null,
      fallbackText: "a new one each time",
    }),
    stop: listFlag({
      group,
      help: "ends the text before this string",
      placeholder: "TEXT",
      schema: text,
    }),
    ignoreEos: switchFlag({ group, help: "goes on where the model would end" }),
  } as const;
}

/** The engine's sampling parameters from settings. */
export function samplingParams(
  settings: Settings<ReturnType<typeof samplingFlags>>,
): SamplingParams {
  return {
    temperature: settings.temperature,
    topK: settings.topK,
    topP: settings.topP,
    minP: settings.minP,
    typicalP: settings.typicalP,
    repetitionPenalty: settings.repetitionPenalty,
    repeatLastN: settings.repeatLastN,
    frequencyPenalty: settings.frequencyPenalty,
    presencePenalty: settings.presencePenalty,
    logitBias: settings.logitBias,
    seed: settings.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] ?? 0,
  };
}
