/** A tokenizer from the metadata of a GGUF file. @module */

import { ByteLevelBpe } from "./bpe.ts";
import { charsToBytes, utf8 } from "./byte_level.ts";
import { MAX_SPECIAL_UNITS, TOKEN_TYPE, TokenizerMetadata } from "./metadata.ts";
import { PRE_TOKENIZER_NAMES, preTokenizerRule } from "./pre_tokenize.ts";
import { SentencePieceBpe, SPACE_MARK } from "./sentencepiece.ts";
import { END_TEXTS, SpecialTokens } from "./special.ts";
import type { Tokenizer } from "./types.ts";
import { VocabularyTokenizer } from "./vocabulary_tokenizer.ts";

const BYTE_TOKEN = /^<0x([0-9A-F]{2})>$/;
const NO_BYTES = new Uint8Array(0);

/** The vocabulary as both kinds of tokenizer need it. */
interface Vocabulary {
  readonly texts: readonly string[];
  readonly types: ArrayLike<number>;
  /** Control and unknown tokens: never made from plain text, dropped by `skipSpecial`. */
  readonly specialIds: ReadonlySet<number>;
  /** Entries that plain text may become. */
  readonly plainIds: ReadonlyMap<string, number>;
  /** Tokens cut out of every text: those the author of the model defined. */
  readonly always: SpecialTokens;
  /** Tokens cut out of a text in which special tokens count. */
  readonly parsed: SpecialTokens;
}

/** Encodes what lies between special tokens. `starts`: nothing but special tokens came before. */
type EncodePlain = (text: string, starts: boolean, out: number[]) => void;

/**
 * Builds the tokenizer.
 *
 * @param vocabSize Rows of the model's embedding.
 * @throws {ModelFileError} `unsupported_tokenizer` or `malformed`.
 */
export function ggufTokenizer(
  values: Readonly<Record<string, unknown>>,
  path: string,
  vocabSize: number,
): Tokenizer {
  const metadata = new TokenizerMetadata(values, path);
  const model = metadata.string("tokenizer.ggml.model");
  if (model !== "gpt2" && model !== "llama") {
    throw metadata.unsupported(
      `tokenizer.ggml.model is ${JSON.stringify(model?.slice(0, 40))}; ` +
        `known are "gpt2" (byte-level BPE) and "llama" (SentencePiece)`,
    );
  }
  const sentencePiece = model === "llama";
  const texts = metadata.strings("tokenizer.ggml.tokens");
  const numTokens = texts.length;
  if (numTokens === 0 || numTokens > vocabSize) {
    throw metadata.malformed(
      `tokenizer.ggml.tokens has ${numTokens} tokens, the model ${vocabSize}`,
    );
  }
  // SentencePiece files may leave its usual ids unsaid.
  const id = (name: string, usual?: number) =>
    metadata.id(`tokenizer.ggml.${name}_token_id`, numTokens) ??
      (sentencePiece && usual !== undefined && usual < numTokens ? usual : undefined);
  const bosId = id("bos", 1);
  const eosId = id("eos", 2);
  const unknownId = id("unknown", 0);
  const ends = new Set([eosId, id("eot"), id("eom")].filter((end) => end !== undefined));
  const vocabulary = readVocabulary(metadata, texts, ends);

  let encodePlain: EncodePlain;
  let bytesOfNormal: (text: string) => Uint8Array;
  let addsSpace = false;
  let addsBos: boolean;
  if (sentencePiece) {
    const scores = metadata.numbers("tokenizer.ggml.scores", numTokens, Number.isFinite);
    if (scores === undefined) throw metadata.malformed("tokenizer.ggml.scores is missing");
    const spm = new SentencePieceBpe({
      ids: vocabulary.plainIds,
      scores,
      byteIds: byteTokens(vocabulary),
      unknownId,
    });
    addsSpace = metadata.boolean("tokenizer.ggml.add_space_prefix") ?? true;
    addsBos = metadata.boolean("tokenizer.ggml.add_bos_token") ?? true;
    encodePlain = (text, starts, out) => spm.encode(starts && addsSpace ? ` ${text}` : text, out);
    bytesOfNormal = (text) => utf8(text.replaceAll(SPACE_MARK, " "));
  } else {
    const { rule, bpe } = readBpe(metadata, vocabulary);
    addsBos = metadata.boolean("tokenizer.ggml.add_bos_token") ?? rule.addsBos;
    encodePlain = (text, _starts, out) => bpe.encode(text, out);
    bytesOfNormal = charsToBytes;
  }
  const addsEos = metadata.boolean("tokenizer.ggml.add_eos_token") ?? false;
  if (addsBos && bosId === undefined) {
    throw metadata.malformed("BOS is asked for, but tokenizer.ggml.bos_token_id is missing");
  }
  if (addsEos && eosId === undefined) {
    throw metadata.malformed("EOS is asked for, but tokenizer.ggml.eos_token_id is missing");
  }

  return new VocabularyTokenizer({
    // Its rules are named, and ours.
    hasUnknownPatterns: false,
    vocabSize,
    kind: sentencePiece ? "sentencepiece" : "bpe",
    bosId,
    addsBos,
    eosAfterText: addsEos ? eosId : undefined,
    endIds: ends,
    specialIds: vocabulary.specialIds,
    addsSpace,
    encodeText: (text, parseSpecial) => encodeAround(vocabulary, text, parseSpecial, encodePlain),
    bytesOf(id) {
      const text = texts[id];
      if (text === undefined) return NO_BYTES;
      const byte = vocabulary.types[id] === TOKEN_TYPE.byte
        ? BYTE_TOKEN.exec(text)?.[1]
        : undefined;
      if (byte !== undefined) return Uint8Array.of(parseInt(byte, 16));
      const literal = vocabulary.specialIds.has(id) ||
        vocabulary.types[id] === TOKEN_TYPE.userDefined;
      return literal ? utf8(text) : bytesOfNormal(text);
    },
  });
}

/** Checks and sorts the tokens. Adds the well-known end tokens to `ends`. */
function readVocabulary(
  metadata: TokenizerMetadata,
  texts: readonly string[],
  ends: Set<number>,
): Vocabulary {
  const types = metadata.numbers(
    "tokenizer.ggml.token_type",
    texts.length,
    (type) => Number.isInteger(type) && type >= 0 && type <= TOKEN_TYPE.byte,
  ) ??
    new Float64Array(texts.length).fill(TOKEN_TYPE.normal);
  const specialIds = new Set<number>();
  const plainIds = new Map<string, number>();
  const userDefined: [string, number][] = [];
  const special: [string, number][] = [];
  let units = 0;
  for (const [id, text] of texts.entries()) {
    const type = types[id];
    let control = type === TOKEN_TYPE.control || type === TOKEN_TYPE.unknown;
    if (type === TOKEN_TYPE.byte && !BYTE_TOKEN.test(text)) {
      throw metadata.malformed(
        `tokenizer.ggml.tokens[${id}] is a byte token but reads ${
          JSON.stringify(text.slice(0, 40))
        }`,
      );
    }
    // Some converters mark the end of a turn as user-defined. Left so, a user could type it.
    const endText = END_TEXTS.has(text) && (control || type === TOKEN_TYPE.userDefined);
    if (endText) ends.add(id);
    if (endText || ends.has(id)) control = true;
    if (control) {
      specialIds.add(id);
      special.push([text, id]);
    } else if (type === TOKEN_TYPE.userDefined) {
      userDefined.push([text, id]);
    }
    if (control || type === TOKEN_TYPE.userDefined) units += text.length;
    else if (type !== TOKEN_TYPE.byte && text !== "" && !plainIds.has(text)) plainIds.set(text, id);
  }
  if (units > MAX_SPECIAL_UNITS) {
    throw metadata.malformed(
      `special tokens have ${units} characters together, more than ${MAX_SPECIAL_UNITS}`,
    );
  }
  return {
    texts,
    types,
    specialIds,
    plainIds,
    always: new SpecialTokens(userDefined),
    parsed: new SpecialTokens([...userDefined, ...special]),
  };
}

function readBpe(metadata: TokenizerMetadata, vocabulary: Vocabulary) {
  const pre = metadata.string("tokenizer.ggml.pre");
  const rule = preTokenizerRule(pre ?? "");
  if (rule === undefined) {
    throw metadata.unsupported(
      (pre === undefined
        ? "tokenizer.ggml.pre is missing; convert the model again with a converter that sets it"
        : `tokenizer.ggml.pre ${JSON.stringify(pre.slice(0, 40))} is not known`) +
        ` (known: ${PRE_TOKENIZER_NAMES.join(", ")})`,
    );
  }
  const merges = metadata.strings("tokenizer.ggml.merges").map((merge, i) => {
    // The left part may begin with the separator itself in no vocabulary, but it is never empty.
    const at = merge.indexOf(" ", 1);
    if (at < 0 || at === merge.length - 1) {
      throw metadata.malformed(
        `tokenizer.ggml.merges[${i}] must be two parts with a space between, ` +
          `not ${JSON.stringify(merge.slice(0, 40))}`,
      );
    }
    return [merge.slice(0, at), merge.slice(at + 1)] as const;
  });
  const bpe = new ByteLevelBpe(rule, vocabulary.plainIds, vocabulary.texts.length, merges);
  return { rule, bpe };
}

function byteTokens({ texts, types }: Vocabulary): Int32Array {
  const ids = new Int32Array(256).fill(-1);
  for (const [id, text] of texts.entries()) {
    if (types[id] !== TOKEN_TYPE.byte) continue;
    const byte = parseInt(BYTE_TOKEN.exec(text)?.[1] ?? "", 16);
    if (ids[byte] === -1) ids[byte] = id;
  }
  return ids;
}

function encodeAround(
  vocabulary: Vocabulary,
  text: string,
  parseSpecial: boolean,
  encodePlain: EncodePlain,
): number[] {
  const out: number[] = [];
  let starts = true;
  for (const part of (parseSpecial ? vocabulary.parsed : vocabulary.always).split(text)) {
    if (typeof part === "number") {
      out.push(part);
      starts = true;
    } else {
      encodePlain(part, starts, out);
      starts = false;
    }
  }
  return out;
}
