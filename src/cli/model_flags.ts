/** The flags that every command with a model has, and the engine's options from them. @module */
import { assetPath, DEFAULT_MODEL } from "../assets.ts";
import type { EngineOptions } from "../engine/types.ts";
import { kvFlags, kvRequest, predictorOptions, tierFlags, tierOptions } from "./kv_flags.ts";
import { listFlag, type Settings, valueFlag } from "./flags.ts";
import { integer, nameValue, oneOf, text } from "./values.ts";

const group = "Model";

/** `--model` alone, for commands that need no engine. */
export const modelFlag = {
  model: valueFlag({
    group,
    help: ".gguf file or Hugging Face folder",
    placeholder: "PATH",
    short: "m",
    schema: text,
    fallback: null,
    fallbackText: `the ${DEFAULT_MODEL.servedName} that comes with the program`,
  }),
} as const;

/** `--context` and `--kv-type`: what decides the memory plan. */
export const memoryFlags = {
  context: valueFlag({
    group,
    help: "tokens a sequence may have; more than the model was trained for is a warning",
    placeholder: "N",
    short: "c",
    aliases: ["ctx-size"],
    schema: integer(1, 2 ** 24),
    fallback: null,
    fallbackText: "as trained, or less where memory does not allow",
  }),
  kvType: valueFlag({
    group: "KV cache",
    help: "number format of the KV cache, f16 or f32",
    placeholder: "TYPE",
    schema: oneOf(["f16", "f32"]),
    fallback: "f16" as const,
  }),
} as const;

/** All engine flags but `--max-seqs`, whose default differs. */
export const engineFlags = {
  ...modelFlag,
  ...memoryFlags,
  prefillChunk: valueFlag({
    group,
    help: "prompt tokens that are processed in one go, 512 at most",
    placeholder: "N",
    schema: integer(1, 512),
    fallback: null,
    fallbackText: "measured, so that a chunk takes about two seconds",
  }),
  kernel: listFlag({
    group,
    help: "takes another variant of a kernel than the adapter's table says",
    placeholder: "NAME=VALUE",
    schema: nameValue,
  }),
  ...kvFlags,
  ...tierFlags,
} as const;

/** `--max-seqs` with the default of a command. */
export function maxSeqsFlag(fallback: number) {
  return valueFlag({
    group,
    help: "sequences that are decoded together",
    placeholder: "N",
    aliases: ["parallel"],
    schema: integer(1, 256),
    fallback,
  });
}

/** Path of the model that settings name. */
export function modelPath(settings: Settings<typeof modelFlag>): string {
  return settings.model ?? assetPath(DEFAULT_MODEL.path);
}

/**
 * The engine's options from settings.
 *
 * @throws {UsageError} For settings of the KV cache that exclude each other.
 * @throws {MisfitError} If a file that they name cannot be read.
 */
export function engineOptions(
  settings: Settings<typeof engineFlags>,
  maxSequences: number,
): EngineOptions {
  return {
    modelPath: modelPath(settings),
    contextLength: settings.context,
    maxSequences,
    kvType: settings.kvType,
    prefillChunk: settings.prefillChunk,
    kernelOverrides: Object.fromEntries(settings.kernel),
    kv: kvRequest(settings),
    tiers: tierOptions(settings),
    calibration: settings.calibration,
    ...predictorOptions(settings),
    importanceKeys: settings.importanceKeys,
  };
}
