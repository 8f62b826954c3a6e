/** Where a model keeps its chat template, and the special tokens that go with it. @module */

import { ModelFileError } from "../model/errors.ts";
import type { TokenizerSource } from "../model/types.ts";
import type { TemplateTokens } from "./chat_template.ts";

const NAMES = ["bos", "eos", "unk", "pad"] as const;
const GGUF_KEYS = { bos: "bos", eos: "eos", unk: "unknown", pad: "padding" } as const;

/** A model's template as its file has it. */
export interface ChatTemplateSource {
  readonly template: string;
  readonly tokens: TemplateTokens;
}

/**
 * Finds the chat template: `tokenizer.chat_template` of a GGUF file; `chat_template` of a Hugging
 * Face configuration, which is a text or a list of which the one named `default` is meant.
 *
 * @returns undefined for a model without one.
 * @throws {ModelFileError} `bad_template` if there is something else in its place.
 */
export function findChatTemplate(
  source: TokenizerSource,
  path: string,
): ChatTemplateSource | undefined {
  const value = source.kind === "gguf"
    ? source.metadata["tokenizer.chat_template"]
    : source.config["chat_template"];
  if (value === undefined || value === null) return undefined;
  const template = Array.isArray(value) ? defaultOf(value) : value;
  if (template === undefined) return undefined;
  if (typeof template !== "string") {
    throw new ModelFileError("bad_template", path, `${path}: the chat template is no text`);
  }
  return { template, tokens: tokensOf(source) };
}

/** Of `{name, template}` entries the one named `default`, or the only one. */
function defaultOf(list: readonly unknown[]): unknown {
  const entries = list.filter((entry): entry is { name?: unknown; template?: unknown } =>
    typeof entry === "object" && entry !== null
  );
  const chosen = entries.find((entry) => entry.name === "default") ??
    (entries.length === 1 ? entries[0] : undefined);
  return chosen?.template;
}

function tokensOf(source: TokenizerSource): TemplateTokens {
  const tokens: { -readonly [Name in keyof TemplateTokens]: TemplateTokens[Name] } = {};
  for (const name of NAMES) {
    const text = source.kind === "gguf"
      ? ggufToken(source.metadata, GGUF_KEYS[name])
      : configToken(source.config[`${name}_token`]);
    if (text !== undefined) tokens[name] = text;
  }
  return tokens;
}

function ggufToken(metadata: Readonly<Record<string, unknown>>, name: string): string | undefined {
  const texts = metadata["tokenizer.ggml.tokens"];
  const id = metadata[`tokenizer.ggml.${name}_token_id`];
  if (!Array.isArray(texts) || (typeof id !== "number" && typeof id !== "bigint")) return undefined;
  const text: unknown = texts[Number(id)];
  return typeof text === "string" ? text : undefined;
}

function configToken(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value !== "object" || value === null) return undefined;
  const content: unknown = (value as { content?: unknown }).content;
  return typeof content === "string" ? content : undefined;
}
