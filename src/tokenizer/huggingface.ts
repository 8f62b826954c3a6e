/**
 * A tokenizer from `tokenizer.json`. Text to ids is `@huggingface/tokenizers`; ids to bytes is our
 * own, because the library has no way to decode a token that is part of a character.
 *
 * @module
 */

import { Tokenizer as Encoder } from "@huggingface/tokenizers";
import { ModelFileError } from "../model/errors.ts";
import type { TokenizerSource } from "../model/types.ts";
import { charsToBytes, utf8 } from "./byte_level.ts";
import { MAX_ENTRIES, MAX_SPECIAL_UNITS } from "./metadata.ts";
import { END_TEXTS } from "./special.ts";
import type { Tokenizer } from "./types.ts";
import { VocabularyTokenizer } from "./vocabulary_tokenizer.ts";

type Json = Readonly<Record<string, unknown>>;
type HuggingFaceSource = Extract<TokenizerSource, { kind: "huggingface" }>;

const NO_BYTES = new Uint8Array(0);
const BYTE_TOKEN = /^<0x([0-9A-F]{2})>$/;

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly json: Json;
}

/** How the tokens of a `tokenizer.json` become bytes. */
interface ByteRule {
  readonly byteLevel: boolean;
  /** Tokens of the form `<0x0A>` are bytes. */
  readonly byteFallback: boolean;
  /** (what a token has, what the text has). */
  readonly replacements: readonly (readonly [string, string])[];
  readonly dropsLeadingSpace: boolean;
}

/**
 * Builds the tokenizer.
 *
 * @param vocabSize Rows of the model's embedding.
 * @throws {ModelFileError} `unsupported_tokenizer` or `malformed`.
 */
export function huggingFaceTokenizer(
  source: HuggingFaceSource,
  path: string,
  vocabSize: number,
): Tokenizer {
  const malformed = (message: string) =>
    new ModelFileError("malformed", path, `${path}: tokenizer.json: ${message}`);
  const json = source.tokenizer;
  if (!isObject(json) || !isObject(json["model"])) throw malformed("has no model");
  const model = json["model"];
  if (model["type"] !== undefined && model["type"] !== "BPE") {
    throw new ModelFileError(
      "unsupported_tokenizer",
      path,
      `${path}: tokenizer.json: model type ${
        JSON.stringify(model["type"])
      } is not known (known: BPE)`,
    );
  }
  const vocab = model["vocab"];
  if (!isObject(vocab) || !Array.isArray(model["merges"])) {
    throw malformed("a BPE model needs vocab and merges");
  }
  const entries = Object.entries(vocab);
  if (entries.length > MAX_ENTRIES || model["merges"].length > MAX_ENTRIES) {
    throw malformed(`more than ${MAX_ENTRIES} tokens or merges`);
  }
  const steps = [...stepsOf([json["normalizer"], json["pre_tokenizer"]])];
  if (!steps.every(hasItsPattern)) {
    throw malformed("a Split or Replace has no pattern that is a String or a Regex");
  }
  const rule = byteRule(json["decoder"]);
  if (rule === undefined) {
    throw new ModelFileError(
      "unsupported_tokenizer",
      path,
      `${path}: tokenizer.json: the decoder must be ByteLevel, Metaspace, or a sequence of Replace, ` +
        "ByteFallback, Fuse and Strip",
    );
  }
  const texts: string[] = new Array<string>(vocabSize).fill("");
  for (const [text, id] of entries) {
    if (!isId(id, vocabSize)) {
      throw malformed(`id of ${JSON.stringify(text.slice(0, 40))} is not below ${vocabSize}`);
    }
    texts[id] = text;
  }
  const added = addedTokens(json["added_tokens"], vocabSize, malformed);
  const literal = new Set<number>();
  const specialIds = new Set<number>();
  for (const token of added) {
    texts[token.id] = token.content;
    literal.add(token.id);
    if (token.special) specialIds.add(token.id);
  }

  const idOf = new Map(added.map((token) => [token.content, token.id]));
  const { config, generation } = source;
  const namedId = (name: string): number | undefined => {
    const text = tokenText(config[`${name}_token`]);
    const id = text === undefined ? undefined : idOf.get(text) ?? vocab[text];
    return isId(id, vocabSize) ? id : undefined;
  };
  const bosId = namedId("bos") ?? idsOf(generation, "bos_token_id", vocabSize, path)[0];
  const eosId = namedId("eos");
  const endIds = new Set(idsOf(generation, "eos_token_id", vocabSize, path));
  if (eosId !== undefined) endIds.add(eosId);
  for (const id of specialIds) {
    if (END_TEXTS.has(texts[id] ?? "")) endIds.add(id);
  }

  const encoders = lazyEncoders(json, model, vocab, added, config);
  // Asks the post-processor itself: there are several ways to write "BOS first" in the file. The
  // two built-in ones name their tokens outside of it and are for other kinds of model.
  const framed = encoders.special().encode("", { add_special_tokens: true }).ids;
  const says = config["add_bos_token"];
  const addsBos = bosId !== undefined &&
    (typeof says === "boolean" ? says : framed[0] === bosId);
  const addsEos = eosId !== undefined &&
    (config["add_eos_token"] === true || (framed.length > 1 && framed.at(-1) === eosId));

  return new VocabularyTokenizer({
    hasUnknownPatterns: steps.some(hasUnknownPattern),
    vocabSize,
    kind: model["byte_fallback"] === true ? "sentencepiece" : "bpe",
    bosId,
    addsBos,
    eosAfterText: addsEos ? eosId : undefined,
    endIds,
    specialIds,
    addsSpace: rule.dropsLeadingSpace,
    encodeText(text, parseSpecial) {
      const encoder = parseSpecial ? encoders.special() : encoders.plain();
      // The library answers undefined for what is neither in the vocabulary nor an unknown token.
      return encoder.encode(text, { add_special_tokens: false }).ids
        .filter((id: number | undefined) => id !== undefined);
    },
    bytesOf(id) {
      const text = texts[id] ?? "";
      if (text === "") return NO_BYTES;
      return literal.has(id) ? utf8(text) : bytesOfToken(text, rule);
    },
  });
}

/**
 * Two encoders over the same file: one that parses special tokens in a text and one that does not
 * know them at all, so that nothing a user types can become one. Each is built when first needed.
 */
function lazyEncoders(
  json: Json,
  model: Json,
  vocab: Json,
  added: readonly AddedToken[],
  config: Json,
): { special(): Encoder; plain(): Encoder } {
  const settings = { ...config, clean_up_tokenization_spaces: false };
  let special: Encoder | undefined;
  let plain: Encoder | undefined;
  return {
    special: () =>
      special ??= new Encoder(
        { ...json, added_tokens: added.map((token) => token.json) },
        settings,
      ),
    plain() {
      if (plain !== undefined) return plain;
      const kept: Record<string, unknown> = { ...vocab };
      for (const token of added) {
        if (token.special && token.content !== model["unk_token"]) delete kept[token.content];
      }
      plain = new Encoder({
        ...json,
        model: { ...model, vocab: kept },
        added_tokens: added.filter((token) => !token.special).map((token) => token.json),
      }, { ...settings, additional_special_tokens: [] });
      return plain;
    },
  };
}

/** A step of a normalizer or pre-tokenizer and all that it consists of. */
function* stepsOf(step: unknown): Generator<Json> {
  if (Array.isArray(step)) { for (const each of step) yield* stepsOf(each); }
  if (!isObject(step)) return;
  yield step;
  yield* stepsOf(step["normalizers"]);
  yield* stepsOf(step["pretokenizers"]);
}

/**
 * Whether a step that needs a pattern has one. The library takes what it does not know for none, says
 * so on the console, and goes on with other ids than the model was trained with.
 */
function hasItsPattern({ type, pattern }: Json): boolean {
  if (type !== "Split" && type !== "Replace") return true;
  if (!isObject(pattern)) return false;
  // It takes the first of the two that is there.
  return typeof pattern["Regex" in pattern ? "Regex" : "String"] === "string";
}

/**
 * Patterns that take time in proportion to the text, as the files of the Llama 3 and Qwen 2
 * families have them.
 */
const KNOWN_PATTERNS: ReadonlySet<string> = new Set(
  ["\\p{N}{1,3}", "\\p{N}"].map((digits) =>
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + digits +
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
  ),
);

/** Whether a step has a pattern that is not known; one that is plain text takes no time. */
function hasUnknownPattern({ pattern }: Json): boolean {
  const regex = isObject(pattern) ? pattern["Regex"] : undefined;
  return typeof regex === "string" && !KNOWN_PATTERNS.has(regex);
}

function addedTokens(
  value: unknown,
  vocabSize: number,
  malformed: (message: string) => ModelFileError,
): AddedToken[] {
  if (value !== undefined && !Array.isArray(value)) throw malformed("added_tokens is no array");
  const tokens: AddedToken[] = [];
  let units = 0;
  for (const json of value ?? []) {
    if (!isObject(json) || typeof json["content"] !== "string" || json["content"] === "") {
      throw malformed("an added token has no content");
    }
    const { content, id } = json;
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0) {
      throw malformed(`added token ${JSON.stringify(content.slice(0, 40))} has no id`);
    }
    // Fine-tunes often add a padding token without a row in the embedding. It is only text here.
    if (id >= vocabSize) continue;
    units += content.length;
    tokens.push({ id, content, special: json["special"] === true, json });
  }
  if (tokens.length > MAX_ENTRIES || units > MAX_SPECIAL_UNITS) {
    throw malformed("too many added tokens");
  }
  return tokens;
}

function byteRule(decoder: unknown): ByteRule | undefined {
  if (!isObject(decoder)) return undefined;
  const steps = decoder["type"] === "Sequence" ? decoder["decoders"] : [decoder];
  if (!Array.isArray(steps)) return undefined;
  let byteLevel = false;
  let byteFallback = false;
  let dropsLeadingSpace = false;
  const replacements: [string, string][] = [];
  for (const step of steps) {
    if (!isObject(step)) return undefined;
    switch (step["type"]) {
      case "ByteLevel":
        byteLevel = true;
        break;
      case "ByteFallback":
        byteFallback = true;
        break;
      case "Fuse":
        break;
      case "Replace": {
        const pattern = isObject(step["pattern"]) ? step["pattern"]["String"] : undefined;
        const content = step["content"];
        if (typeof pattern !== "string" || pattern === "" || typeof content !== "string") {
          return undefined;
        }
        replacements.push([pattern, content]);
        break;
      }
      case "Strip":
        if (step["content"] !== " " || step["stop"] !== 0) return undefined;
        dropsLeadingSpace = step["start"] === 1;
        break;
      case "Metaspace": {
        const mark = step["replacement"];
        if (typeof mark !== "string" || mark === "") return undefined;
        replacements.push([mark, " "]);
        dropsLeadingSpace = (step["prepend_scheme"] ?? "always") !== "never" &&
          step["add_prefix_space"] !== false;
        break;
      }
      default:
        return undefined;
    }
  }
  return { byteLevel, byteFallback, replacements, dropsLeadingSpace };
}

function bytesOfToken(text: string, rule: ByteRule): Uint8Array {
  if (rule.byteLevel) return charsToBytes(text);
  const byte = rule.byteFallback ? BYTE_TOKEN.exec(text)?.[1] : undefined;
  if (byte !== undefined) return Uint8Array.of(parseInt(byte, 16));
  let plain = text;
  for (const [from, to] of rule.replacements) plain = plain.replaceAll(from, to);
  return utf8(plain);
}

/** Ids under a key that holds one, several or none. */
function idsOf(values: Json, key: string, vocabSize: number, path: string): number[] {
  const value = values[key];
  if (value === undefined || value === null) return [];
  const ids: readonly unknown[] = Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (!isId(id, vocabSize)) {
      throw new ModelFileError(
        "malformed",
        path,
        `${path}: ${key} of the configuration must be token ids below ${vocabSize}`,
      );
    }
  }
  return ids as number[];
}

/** A special token of `tokenizer_config.json`: a string, or an object with its content. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  return isObject(value) && typeof value["content"] === "string" ? value["content"] : undefined;
}

function isId(value: unknown, vocabSize: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < vocabSize;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
