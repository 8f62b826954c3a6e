/**
 * Tasks in the manner of RULER (arXiv 2404.06654) that need no outside data: needles in a haystack,
 * variable tracking, common words, frequent words. The structure is theirs, the wording is our own.
 *
 * @module
 */
import type { Draws } from "../../train/draws.ts";

/** Every task. */
export const RULER_TASKS = [
  "niah_single_1",
  "niah_single_2",
  "niah_single_3",
  "niah_multikey_1",
  "niah_multikey_2",
  "niah_multikey_3",
  "niah_multivalue",
  "niah_multiquery",
  "vt",
  "cwe",
  "fwe",
] as const;
/** One of {@linkcode RULER_TASKS}. */
export type RulerTask = typeof RULER_TASKS[number];

/** A sample as text. */
export interface RulerSample {
  /** What the user says: the context and the question. */
  readonly prompt: string;
  /** How the answer begins; the model goes on from there. */
  readonly answerPrefix: string;
  /** What has to be in the answer, each counted by itself. */
  readonly references: readonly string[];
}

/** What samples are made from. */
export interface RulerOptions {
  readonly draws: Draws;
  /** Tokens that the prompt has at most. */
  readonly tokens: number;
  readonly countTokens: (text: string) => number;
  /** Long prose, for haystacks of that kind. */
  readonly prose: string;
}

/** Part of the references that an answer has, 0 to 1. Letters of either case. */
export function rulerScore(answer: string, references: readonly string[]): number {
  const text = answer.toLowerCase();
  const found = references.filter((reference) => text.includes(reference.toLowerCase()));
  return found.length / references.length;
}

/** One sample of a task, as long as it may be. @throws {RangeError} If not even the shortest fits. */
export function rulerSample(task: RulerTask, options: RulerOptions): RulerSample {
  switch (task) {
    case "vt":
      return variableTracking(options);
    case "cwe":
      return commonWords(options);
    case "fwe":
      return frequentWords(options);
    default:
      return needles(NEEDLES[task], options);
  }
}

interface NeedleKind {
  readonly haystack: "repeat" | "prose" | "needles";
  readonly keys: "words" | "ids";
  readonly values: "numbers" | "ids";
  readonly numKeys: number;
  readonly numValues: number;
  readonly numQueries: number;
}

const ONE = { keys: "words", values: "numbers", numKeys: 1, numValues: 1, numQueries: 1 } as const;
const NEEDLES: Readonly<Record<Exclude<RulerTask, "vt" | "cwe" | "fwe">, NeedleKind>> = {
  niah_single_1: { ...ONE, haystack: "repeat" },
  niah_single_2: { ...ONE, haystack: "prose" },
  niah_single_3: { ...ONE, haystack: "prose", values: "ids" },
  niah_multikey_1: { ...ONE, haystack: "prose", numKeys: 4 },
  niah_multikey_2: { ...ONE, haystack: "needles" },
  niah_multikey_3: { ...ONE, haystack: "needles", keys: "ids", values: "ids" },
  niah_multivalue: { ...ONE, haystack: "prose", numValues: 4 },
  niah_multiquery: { ...ONE, haystack: "prose", numKeys: 4, numQueries: 4 },
};

/** Five short sentences that say nothing. */
const NOISE = "Rain fell on the roof. The clock ticked. A door stood open. Someone hummed. " +
  "The road was long.";

const ADJECTIVES = (
  "amber brave brisk calm clever cosy crisp curly damp dusty early eager faint fancy gentle giant " +
  "golden happy hasty hollow humble icy jolly keen lively lucky mellow misty modest narrow noble " +
  "polite proud quick quiet rapid rough rusty shiny silent silver simple sleepy smooth snowy solid " +
  "steady stormy sunny swift tender tidy tiny vivid warm wild windy wise witty young"
).split(" ");
const NOUNS = (
  "acorn anchor apple arrow badger basket beacon bridge bucket button cabin candle canyon castle " +
  "cherry circle clover comet copper cotton cradle dragon eagle engine falcon feather fiddle forest " +
  "garden glacier hammer harbor island jacket kettle ladder lantern lemon lizard marble meadow mirror " +
  "needle orchard otter paddle pepper pigeon planet pocket puzzle rabbit ribbon river saddle shadow " +
  "spider temple thimble timber tunnel turtle valley violin walnut window"
).split(" ");

function needles(
  kind: NeedleKind,
  { draws, tokens, countTokens, prose }: RulerOptions,
): RulerSample {
  const draw = (what: "words" | "numbers" | "ids") => {
    if (what === "numbers") return String(1_000_000 + draws.below(9_000_000));
    if (what === "ids") return uuid(draws);
    return `${ADJECTIVES[draws.below(ADJECTIVES.length)]}-${NOUNS[draws.below(NOUNS.length)]}`;
  };
  const fresh = (what: "words" | "numbers" | "ids", used: Set<string>) => {
    for (;;) {
      const value = draw(what);
      if (used.has(value)) continue;
      used.add(value);
      return value;
    }
  };
  const used = new Set<string>();
  const type = kind.values === "ids" ? "magic id" : "magic number";
  const entries = Array.from({ length: kind.numKeys }, () => ({
    key: fresh(kind.keys, used),
    values: Array.from({ length: kind.numValues }, () => fresh(kind.values, used)),
  }));
  const sentence = (key: string, value: string) => `The ${type} of ${key} is ${value}.`;
  const hidden = entries.flatMap(({ key, values }) => values.map((value) => sentence(key, value)));
  const asked = entries.slice(0, kind.numQueries);
  const names = list(asked.map(({ key }) => key));
  const references = asked.flatMap(({ values }) => values);
  const many = references.length > 1;
  const others = kind.haystack === "needles"
    ? Array.from(
      { length: tokens / 8 },
      () => sentence(fresh(kind.keys, used), fresh(kind.values, used)),
    )
    : [];
  const places = hidden.map(() => draws.next());
  const prompt = (units: number) =>
    `Somewhere in the text below ${many ? "some" : "a"} ${type}${many ? "s are" : " is"} hidden. ` +
    `Remember ${many ? "them" : "it"}; afterwards I will ask for ${many ? "them" : "it"}.\n\n` +
    `${haystack(kind.haystack, units, hidden, places, others, prose)}\n\n` +
    `${many ? `What are all the ${type}s` : `What is the ${type}`} of ${names} in the text above?`;
  const unit = kind.haystack === "prose" ? 25 : 1;
  return {
    prompt: longest(prompt, unit, tokens, countTokens),
    answerPrefix: `The ${type}${many ? "s" : ""} of ${names} in the text ${many ? "are" : "is"}`,
    references,
  };
}

function haystack(
  kind: NeedleKind["haystack"],
  units: number,
  hidden: readonly string[],
  places: readonly number[],
  others: readonly string[],
  prose: string,
): string {
  const lines = kind === "prose"
    ? sentencesOf(prose, units)
    : kind === "repeat"
    ? Array.from({ length: units }, () => NOISE)
    : others.slice(0, units);
  // From the last place on, so that places before it stay what they are.
  const order = hidden.map((_, index) => index).sort((a, b) => places[b]! - places[a]!);
  for (const index of order) {
    lines.splice(Math.floor(places[index]! * (lines.length + 1)), 0, hidden[index]!);
  }
  return lines.join(kind === "prose" ? " " : "\n");
}

function sentencesOf(prose: string, words: number): string[] {
  const text = prose.split(/\s+/).filter((word) => word !== "").slice(0, words).join(" ");
  return text.split(/(?<=[.!?]) /);
}

function variableTracking({ draws, tokens, countTokens }: RulerOptions): RulerSample {
  const chain = (letters: number) => {
    const names = new Set<string>();
    while (names.size < 5) names.add(word(draws, letters).toUpperCase());
    const value = String(10_000 + draws.below(90_000));
    const [first, ...rest] = [...names];
    let before = first!;
    const lines = [`VAR ${first} = ${value}`];
    for (const name of rest) {
      lines.push(`VAR ${name} = VAR ${before}`);
      before = name;
    }
    return { names: [...names], value, lines };
  };
  const ask = (value: string) =>
    `Which variables have the value ${value} in the text above, directly or through others?`;
  const answer = (value: string) =>
    `By the assignments in the text, five variables have the value ${value}; they are:`;
  const rule = "Find and remember the assignments to variables that are hidden in the text below.";
  const spread = (lines: readonly string[], places: readonly number[], units: number) => {
    const out = Array.from({ length: units }, () => NOISE);
    const sorted = places.map((place) => Math.floor(place * (units + 1))).sort((a, b) => a - b);
    for (let i = lines.length - 1; i >= 0; i--) out.splice(sorted[i]!, 0, lines[i]!);
    return out.join("\n");
  };
  const example = chain(3);
  const real = chain(5);
  const places = [real, example].map(({ lines }) => lines.map(() => draws.next()));
  const shown = `${rule}\n\n${spread(example.lines, places[1]!, 5)}\n\n${ask(example.value)}\n` +
    `${answer(example.value)} ${example.names.join(" ")}\n\n`;
  const prompt = (units: number) =>
    `${shown}${rule}\n\n${spread(real.lines, places[0]!, units)}\n\n${ask(real.value)}`;
  return {
    prompt: longest(prompt, 1, tokens, countTokens),
    answerPrefix: answer(real.value),
    references: real.names,
  };
}

function commonWords({ draws, tokens, countTokens }: RulerOptions): RulerSample {
  const all = draws.order(ADJECTIVES.length * NOUNS.length)
    .map((i) => `${ADJECTIVES[i % ADJECTIVES.length]}${NOUNS[Math.floor(i / ADJECTIVES.length)]}`);
  const numbered = (words: readonly string[]) =>
    words.map((one, index) => `${index + 1}. ${one}`).join(" ");
  const shuffled = (
    common: readonly string[],
    times: number,
    others: readonly string[],
    rare: number,
  ) => {
    const words = [
      ...common.flatMap((one) => new Array<string>(times).fill(one)),
      ...others.flatMap((one) => new Array<string>(rare).fill(one)),
    ];
    return draws.order(words.length).map((i) => words[i]!);
  };
  const rule =
    "Below is a numbered list of words. Some of them come up more often than the others. " +
    "Remember those.";
  const ask = "Which ten words come up most often in the list above?";
  const begin = "The ten words that come up most often in the list are:";
  const example = all.slice(0, 20);
  const shown =
    `${rule}\n${numbered(shuffled(example.slice(0, 10), 4, example.slice(10), 1))}\n${ask}\n` +
    `${begin} ${numbered(example.slice(0, 10))}\n\n`;
  const common = all.slice(20, 30);
  // In short contexts every word comes less often; the ten are ten times as frequent all the same.
  const [times, rare] = tokens >= 4096 ? [30, 3] : [10, 1];
  const prompt = (units: number) => {
    const words = shuffled(common, times, all.slice(30, 30 + units), rare);
    return `${shown}${rule}\n${numbered(words)}\n${ask}`;
  };
  return {
    prompt: longest(prompt, 1, tokens, countTokens, all.length - 30),
    answerPrefix: begin,
    references: common,
  };
}

function frequentWords({ draws, tokens, countTokens }: RulerOptions): RulerSample {
  const names = new Set<string>();
  while (names.size < Math.max(8, Math.floor(tokens / 50))) names.add(word(draws, 6));
  // The most frequent of all is noise.
  const vocabulary = ["...", ...[...names].slice(1)];
  const zeta = 1.6449340668482264;
  const prompt = (units: number) => {
    const words = vocabulary.flatMap((one, rank) =>
      new Array<string>(Math.floor(units * (rank + 1) ** -2 / zeta)).fill(one)
    );
    const text = draws.order(words.length).map((i) => words[i]!).join(" ");
    return "Read the following coded text and keep track of how often each coded word appears.\n\n" +
      `${text}\n\nLeave the dots aside. Which are the three most frequent coded words in the text ` +
      "above? Do not explain.";
  };
  return {
    prompt: longest(prompt, 16, tokens, countTokens),
    answerPrefix: "The three most frequent coded words are:",
    references: vocabulary.slice(1, 4),
  };
}

/** The longest of texts that grow with a count of units and still have no more tokens than they may. */
function longest(
  text: (units: number) => string,
  unit: number,
  tokens: number,
  countTokens: (text: string) => number,
  most = Infinity,
): string {
  const fits = (steps: number) => {
    const made = text(steps * unit);
    return countTokens(made) <= tokens ? made : null;
  };
  let best = fits(1);
  if (best === null) throw new RangeError(`this task needs more than ${tokens} tokens`);
  let low = 1;
  let high = 2;
  const limit = Math.floor(most / unit);
  for (;;) {
    const made = high > limit ? null : fits(high);
    if (made === null) break;
    [best, low, high] = [made, high, high * 2];
  }
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    const made = middle > limit ? null : fits(middle);
    if (made === null) high = middle;
    else [best, low] = [made, middle];
  }
  return best;
}

function word(draws: Draws, letters: number): string {
  return Array.from({ length: letters }, () => String.fromCharCode(97 + draws.below(26))).join("");
}

function uuid(draws: Draws): string {
  const digits = (count: number) =>
    Array.from({ length: count }, () => draws.below(16).toString(16)).join("");
  return [8, 4, 4, 4, 12].map(digits).join("-");
}

function list(items: readonly string[]): string {
  if (items.length === 1) return items[0]!;
  return `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}
