/**
 * Tasks as RULER (arXiv 2404.06654) describes them, in our own words: what is hidden in a long text is
 * asked for at its end. A sample is a pure function of task, seed, index and size; the size is then made
 * as large as a number of tokens allows.
 *
 * @module
 */
import { Draws } from "../../train/draws.ts";
import { hide, inventedSentences, NOISE, sentencesOf } from "./haystack.ts";
import { letters, listed, numbersOf, PLAIN_WORDS, uuids, wordKeys } from "./words.ts";

/** A sample without its tokens. */
export interface RulerSample {
  /** What the user says. */
  readonly prompt: string;
  /** How the answer begins; the model goes on from there. */
  readonly prefix: string;
  /** What has to be in the answer, all of it. */
  readonly references: readonly string[];
}

/** What a sample is drawn from. */
export interface RulerSource {
  /** Stream of random numbers of the sample. */
  readonly draws: Draws;
  /** Units of filling: sentences, lines or words, whatever the task counts in. */
  readonly size: number;
  /** Tokens that the whole sample may have. */
  readonly tokens: number;
  /** Prose for haystacks; null: made-up sentences. */
  readonly essay: string | null;
}

/** A kind of sample. */
export interface RulerTask {
  readonly name: string;
  /** What is asked. */
  readonly summary: string;
  make(source: RulerSource): RulerSample;
}

interface NeedleSpec {
  readonly haystack: "repeat" | "essay" | "needles";
  readonly keyKind: "words" | "uuids";
  readonly valueKind: "numbers" | "uuids";
  readonly keys: number;
  /** Values of each key. */
  readonly values: number;
  /** Keys that are asked for. */
  readonly queries: number;
}

const SINGLE: NeedleSpec = {
  haystack: "essay",
  keyKind: "words",
  valueKind: "numbers",
  keys: 1,
  values: 1,
  queries: 1,
};

function needle(key: string, value: string, kind: string): string {
  return `The ${kind} of ${key} is ${value}.`;
}

/** Needles in a haystack. */
function needleTask(name: string, summary: string, spec: NeedleSpec): RulerTask {
  const { haystack, keyKind, valueKind, keys, values, queries } = spec;
  const kind = valueKind === "numbers" ? "locker number" : "ticket code";
  return {
    name,
    summary,
    make({ draws, size, essay }) {
      const distractors = haystack === "needles" ? size : 0;
      const names = keyKind === "words"
        ? wordKeys(draws, keys + distractors)
        : uuids(draws, keys + distractors);
      const count = keys * values + distractors;
      const found = valueKind === "numbers" ? numbersOf(draws, count, 7) : uuids(draws, count);
      const valuesOf = (key: number) => found.slice(key * values, (key + 1) * values);
      const hidden = Array.from({ length: keys }, (_, key) => key).flatMap((key) =>
        valuesOf(key).map((value) => needle(names[key]!, value, kind))
      );
      const order = draws.order(hidden.length).map((at) => hidden[at]!);
      let pieces: string[];
      if (haystack === "repeat") pieces = Array.from({ length: size }, () => NOISE);
      else if (haystack === "needles") {
        pieces = Array.from(
          { length: size },
          (_, at) => needle(names[keys + at]!, found[keys * values + at]!, kind),
        );
      } else {
        const sentences = essay === null ? inventedSentences(draws) : sentencesOf(essay, draws);
        pieces = Array.from({ length: size }, () => sentences.next().value);
      }
      const text = hide(pieces, order, draws).join(haystack === "essay" ? " " : "\n");
      const asked = draws.order(keys).slice(0, queries);
      const which = listed(asked.map((key) => names[key]!));
      const many = queries * values > 1;
      const things = many ? `${kind}s` : kind;
      return {
        prompt:
          `${many ? "Several" : "One"} ${things} ${many ? "stand" : "stands"} somewhere in the ` +
          `pages that follow. Read them with care: in the end you will have to tell ` +
          `${many ? "some of them" : "it"}.\n\n${text}\n\n` +
          `Going by these pages, ${many ? `what are all ${things}` : `what is the ${kind}`} ` +
          `of ${which}?`,
        prefix: `Going by these pages, the ${things} of ${which} ${many ? "are" : "is"}`,
        references: asked.flatMap(valuesOf),
      };
    },
  };
}

/** Assignments from one variable to the next. */
const HOPS = 4;

function assignments(names: readonly string[], value: string): string[] {
  return names.map((name, at) =>
    at === 0 ? `Let ${name} = ${value}.` : `Let ${name} = ${names[at - 1]!}.`
  );
}

function trackingQuestion(text: string, value: string): string {
  return `Some lines below give a value to a name, others pass it on to a further name.\n\n${text}` +
    `\n\nWhich names end up with the value ${value}?`;
}

function trackingAnswer(value: string, count: number): string {
  return `There are ${count} names that end up with the value ${value}, namely`;
}

const TRACKING: RulerTask = {
  name: "vt",
  summary: "variables that have a value through others",
  make({ draws, size }) {
    const chain = (length: number) => {
      const names = letters(draws, HOPS + 1, length, "A");
      return { names, value: numbersOf(draws, 1, 5)[0]! };
    };
    const example = chain(3);
    const { names, value } = chain(5);
    const noise = (count: number) => Array.from({ length: count }, () => NOISE);
    const shown = hide(noise(3), assignments(example.names, example.value), draws).join("\n");
    const text = hide(noise(size), assignments(names, value), draws).join("\n");
    return {
      prompt: `${trackingQuestion(shown, example.value)} ` +
        `${trackingAnswer(example.value, HOPS + 1)} ${example.names.join(", ")}\n\n` +
        trackingQuestion(text, value),
      prefix: trackingAnswer(value, HOPS + 1),
      references: names,
    };
  },
};

/** Words that are asked for. */
const COMMON = 10;
/** From so many tokens on, lists and their example are longer. */
const LONG_LISTS = 4096;

/** The first words are there more often than the others. */
function wordList(draws: Draws, words: readonly string[], often: number, seldom: number): string {
  const all = words.flatMap((word, at) =>
    Array.from({ length: at < COMMON ? often : seldom }, () => word)
  );
  return draws.order(all.length).map((at, place) => `${place + 1}. ${all[at]!}`).join(" ");
}

function commonQuestion(list: string): string {
  return `Count how often each word stands in this list.\n\n${list}\n\n` +
    "Which ten words stand in the list most often?";
}

const COMMON_PREFIX = "These ten words stand in the list most often:";

const COMMON_WORDS: RulerTask = {
  name: "cwe",
  summary: "the ten words of a list that are there most often",
  make({ draws, size, tokens }) {
    const long = tokens >= LONG_LISTS;
    const exampleWords = long ? 40 : 20;
    const wanted = exampleWords + COMMON + size;
    // Enough different words for any length: plain ones, then pairs.
    const plain = draws.order(PLAIN_WORDS.length).map((at) => PLAIN_WORDS[at]!);
    const words = [...plain, ...wordKeys(draws, Math.max(0, wanted - plain.length))];
    const shown = words.slice(0, exampleWords);
    const asked = words.slice(exampleWords, wanted);
    const example = long ? wordList(draws, shown, 10, 3) : wordList(draws, shown, 3, 1);
    const list = long ? wordList(draws, asked, 30, 3) : wordList(draws, asked, 6, 1);
    const answer = shown.slice(0, COMMON).map((word, at) => `${at + 1}. ${word}`).join(" ");
    return {
      prompt: `${commonQuestion(example)} ${COMMON_PREFIX} ${answer}\n\n${commonQuestion(list)}`,
      prefix: COMMON_PREFIX,
      references: asked.slice(0, COMMON),
    };
  },
};

/** Exponent of the law that frequencies follow, and the sum over all ranks. */
const ALPHA = 2;
const ZETA = Math.PI ** 2 / 6;
/** Stands for the most frequent word, which is noise. */
const DOTS = "...";

const FREQUENT_WORDS: RulerTask = {
  name: "fwe",
  summary: "the three words of a coded text that are there most often",
  make({ draws, size, tokens }) {
    const words = letters(draws, Math.max(4, Math.floor(tokens / 50)), 6);
    words[0] = DOTS;
    const all = words.flatMap((word, at) =>
      Array.from({ length: Math.round(size * (at + 1) ** -ALPHA / ZETA) }, () => word)
    );
    const text = draws.order(all.length).map((at) => all[at]!).join(" ");
    return {
      prompt: "In the cipher below some groups of letters come up again and again; dots mean " +
        `nothing.\n\n${text}\n\nWithout the dots, which three groups of letters come up most ` +
        "often? Name them and say nothing else.",
      prefix: "Without the dots, the three groups of letters that come up most often are",
      references: words.slice(1, 4),
    };
  },
};

/** All tasks, in the order of the results. */
export const RULER_TASKS: readonly RulerTask[] = [
  needleTask("niah_single_1", "a number in a line that is repeated", {
    ...SINGLE,
    haystack: "repeat",
  }),
  needleTask("niah_single_2", "a number in prose", SINGLE),
  needleTask("niah_single_3", "a long code in prose", { ...SINGLE, valueKind: "uuids" }),
  needleTask("niah_multikey_1", "one of four numbers in prose", { ...SINGLE, keys: 4 }),
  needleTask("niah_multikey_2", "one number among nothing but others", {
    ...SINGLE,
    haystack: "needles",
  }),
  needleTask("niah_multikey_3", "one long code among nothing but others", {
    ...SINGLE,
    haystack: "needles",
    keyKind: "uuids",
    valueKind: "uuids",
  }),
  needleTask("niah_multivalue", "four numbers of one key in prose", { ...SINGLE, values: 4 }),
  needleTask("niah_multiquery", "four numbers of four keys in prose", {
    ...SINGLE,
    keys: 4,
    queries: 4,
  }),
  TRACKING,
  COMMON_WORDS,
  FREQUENT_WORDS,
];

/** A sample that fits. */
export interface FittedSample extends RulerSample {
  readonly size: number;
}

/**
 * The largest sample that so many tokens allow.
 *
 * @param most Tokens of prompt, prefix and answer together.
 * @param count Tokens of a sample with its answer.
 * @returns Null if not even the smallest one fits.
 */
export function fitSample(
  task: RulerTask,
  { seed, index, essay, tokens }: {
    readonly seed: number;
    readonly index: number;
    readonly essay: string | null;
    /** The length that the task is asked at. */
    readonly tokens: number;
  },
  most: number,
  count: (sample: RulerSample) => number,
): FittedSample | null {
  // Each task has streams of its own.
  const stream = (RULER_TASKS.indexOf(task) + 1) * 2 ** 20 + index;
  const make = (size: number) => task.make({ draws: new Draws(seed, stream), size, tokens, essay });
  const fits = (size: number) => count(make(size)) <= most;
  let [low, high] = [1, 2];
  if (!fits(low)) return null;
  while (fits(high)) [low, high] = [high, high * 2];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (fits(middle)) low = middle;
    else high = middle;
  }
  return { ...make(low), size: low };
}

/** Part of the references that an answer has, whatever the letters' case. */
export function stringMatch(answer: string, references: readonly string[]): number {
  const text = answer.toLowerCase();
  const hits = references.filter((reference) => text.includes(reference.toLowerCase()));
  return hits.length / references.length;
}
