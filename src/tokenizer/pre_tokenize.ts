/**
 * How a text is cut into words before byte-level BPE: the rules that GGUF files name in
 * `tokenizer.ggml.pre`. A rule is a list of patterns; each cuts every piece that the ones before it
 * left, and what a pattern does not match stays as a piece of its own. The patterns follow
 * llama.cpp, whose ids GGUF files are made for; where it differs from the tokenizer the model was
 * trained with (`tekken` has no marks, `deepseek-llm` folds white space), llama.cpp wins.
 *
 * @module
 */

/** How words are found, and what goes with the rule in llama.cpp. */
export interface PreTokenizerRule {
  readonly patterns: readonly Pattern[];
  /** A word that is a vocabulary entry is taken whole, whatever the merges say. */
  readonly ignoreMerges: boolean;
  /** BOS is asked for unless the file says otherwise. */
  readonly addsBos: boolean;
}

interface Pattern {
  readonly regex: RegExp;
  /** Match on a copy of the piece in which white space beyond ASCII is a vertical tab. */
  readonly foldSpace: boolean;
}

// JavaScript's \s has U+FEFF and lacks U+0085; the Unicode property is what the rules mean.
const S = "\\p{White_Space}";
const CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d";
const CONTRACTIONS_ANY_CASE = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";
const WORD = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
// Letters without the lower (upper) case of ASCII: every other letter counts as both.
const UPPER = "(?:(?![a-z])\\p{L})";
const LOWER = "(?:(?![A-Z])\\p{L})";

function pattern(source: string, foldSpace = false): Pattern {
  return { regex: new RegExp(source, "gu"), foldSpace };
}

/** Runs of symbols and of white space, as most rules end. `extra` may follow symbols. */
function tail(extra: string): string {
  return ` ?[^${S}\\p{L}\\p{N}]+[${extra}]*|${S}*[\\r\\n]+|${S}+(?!\\P{White_Space})|${S}+`;
}

const GPT2 = pattern(
  `${CONTRACTIONS}| ?\\p{L}+| ?\\p{N}+| ?[^${S}\\p{L}\\p{N}]+|${S}+(?!\\P{White_Space})|${S}+`,
);

// Cased letters that the deepseek-llm rule knows: an older Unicode than the one here, so the
// ranges are written out. Pairs of code points, hexadecimal.
const CASED = "41-5a 61-7a b5-b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376-377 " +
  "37b-37d 37f-37f 386-386 388-38a 38c-38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 " +
  "13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d " +
  "1f20-1f45 1f48-1f4d 1f50-1f57 1f59-1f59 1f5b-1f5b 1f5d-1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc " +
  "1fbe-1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102-2102 " +
  "2107-2107 210a-2113 2115-2115 2119-211d 2124-2124 2126-2126 2128-2128 212a-212d 212f-2134 " +
  "2139-2139 213c-213f 2145-2149 214e-214e 2183-2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2-2cf3 " +
  "a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a " +
  "ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943";
const CASED_CLASS = CASED.replaceAll(/([0-9a-f]+)-([0-9a-f]+) ?/g, "\\u{$1}-\\u{$2}");

const DEEPSEEK_LLM = [
  pattern("[\\r\\n]", true),
  pattern(`${S}?[${CASED_CLASS}]+`, true),
  pattern(`${S}?[!-/:-~\\uff01-\\uff0f\\uff1a-\\uff5e\\u2018-\\u201f\\u3000-\\u3002]+`, true),
  pattern(`${S}+$`, true),
  pattern("[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+", true),
  pattern("\\p{N}+"),
];

const GPT2_RULE: PreTokenizerRule = { patterns: [GPT2], ignoreMerges: false, addsBos: false };

const RULES: ReadonlyMap<string, PreTokenizerRule> = new Map([
  ["gpt-2", GPT2_RULE],
  ["default", GPT2_RULE],
  ["smollm", { patterns: [pattern("\\p{N}"), GPT2], ignoreMerges: false, addsBos: false }],
  ["llama-bpe", {
    patterns: [pattern(`${CONTRACTIONS_ANY_CASE}|${WORD}|\\p{N}{1,3}|${tail("\\r\\n")}`)],
    ignoreMerges: true,
    addsBos: true,
  }],
  ["qwen2", {
    patterns: [pattern(`${CONTRACTIONS_ANY_CASE}|${WORD}|\\p{N}|${tail("\\r\\n")}`)],
    ignoreMerges: false,
    addsBos: false,
  }],
  ["tekken", {
    patterns: [pattern(
      `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*|` +
        `\\p{N}|${tail("\\r\\n/")}`,
    )],
    ignoreMerges: true,
    addsBos: true,
  }],
  ["deepseek-llm", { patterns: DEEPSEEK_LLM, ignoreMerges: false, addsBos: false }],
]);

/** Names of the rules that {@linkcode preTokenizerRule} knows. */
export const PRE_TOKENIZER_NAMES: readonly string[] = [...RULES.keys()];

/** The rule of that name, or undefined. */
export function preTokenizerRule(name: string): PreTokenizerRule | undefined {
  return RULES.get(name);
}

const WIDE_SPACE = /[\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/g;

/** Cuts a text into the words that BPE works on. Joined, they are the text. */
export function preTokenize(text: string, rule: PreTokenizerRule): string[] {
  let pieces = text === "" ? [] : [text];
  for (const { regex, foldSpace } of rule.patterns) {
    const cut: string[] = [];
    for (const piece of pieces) {
      const subject = foldSpace ? piece.replaceAll(WIDE_SPACE, "\v") : piece;
      let end = 0;
      for (const match of subject.matchAll(regex)) {
        if (match.index > end) cut.push(piece.slice(end, match.index));
        end = match.index + match[0].length;
        cut.push(piece.slice(match.index, end));
      }
      if (end < piece.length) cut.push(piece.slice(end));
    }
    pieces = cut;
  }
  return pieces;
}
