/**
 * The co-reference task: a place is named at the beginning, other matters follow, and a question at the
 * end leads back to the name. What is counted are tokens of the name after the question.
 *
 * @module
 */
import { Draws } from "../../train/draws.ts";
import { FOODS, FRAMES, PLACES, SUMS, THOUGHTS } from "./pools.ts";

/** A story as text. */
export interface Story {
  readonly place: string;
  /** Everything before the question, with the name in it. */
  readonly context: string;
  /** Begins with a blank; ends where the name follows. */
  readonly question: string;
}

/** A story as tokens. */
export interface StoryIds {
  /** Context, question, name. */
  readonly ids: readonly number[];
  /** Tokens of the context: they are prefilled. */
  readonly context: number;
  /** First token of the name after the question. */
  readonly name: number;
}

/**
 * A story: a pure function of seed, index, length and tokenizer.
 *
 * @param tokens Tokens that the context has at least.
 * @param count Tokens of a text.
 */
export function makeStory(
  seed: number,
  index: number,
  tokens: number,
  count: (text: string) => number,
): Story {
  const draws = new Draws(seed, index);
  const place = PLACES[draws.below(PLACES.length)]!;
  const { intro, question } = FRAMES[draws.below(FRAMES.length)]!;
  const kinds = [THOUGHTS, FOODS, SUMS].map((texts) =>
    draws.order(texts.length).map((at) => texts[at]!)
  );
  let context = `${intro} ${place}.`;
  for (let i = 0; i < 3 || count(context) < tokens; i++) {
    const texts = kinds[i % 3]!;
    // Long contexts need a text more than once.
    context += ` ${texts[Math.floor(i / 3) % texts.length]!}`;
  }
  return { place, context, question: ` ${question}` };
}

/** Cuts a story into tokens, whole, as a model reads it. */
export function storyIds(
  { place, context, question }: Story,
  encode: (text: string) => readonly number[],
): StoryIds {
  const whole = encode(`${context}${question} ${place}`);
  return {
    ids: whole,
    context: commonStart(encode(context), whole),
    name: commonStart(encode(context + question), whole),
  };
}

/** Tokens at the beginning that two lists share. */
function commonStart(some: readonly number[], whole: readonly number[]): number {
  const at = some.findIndex((id, index) => id !== whole[index]);
  return at < 0 ? Math.min(some.length, whole.length) : at;
}

/** Which tokens of a name were predicted. */
export interface NameHits {
  /** (tokens of the name) */
  readonly hits: readonly boolean[];
}

/** Sums over stories, of the name tokens that dense attention predicts. */
export interface NameScore {
  /** Name tokens that dense attention predicts. */
  readonly tokens: number;
  /** Those of them that were predicted. */
  readonly hits: number;
  /** Names that dense attention predicts as a whole, and those of them that were. */
  readonly names: number;
  readonly wholeNames: number;
}

/** Counts hits where dense attention hits. Both are lists of stories. */
export function scoreNames(dense: readonly NameHits[], other: readonly NameHits[]): NameScore {
  let [tokens, hits, names, wholeNames] = [0, 0, 0, 0];
  dense.forEach(({ hits: right }, story) => {
    const got = other[story]!.hits;
    right.forEach((is, token) => {
      tokens += Number(is);
      hits += Number(is && got[token]!);
    });
    const whole = right.every(Boolean);
    names += Number(whole);
    wholeNames += Number(whole && got.every(Boolean));
  });
  return { tokens, hits, names, wholeNames };
}
