/**
 * The co-reference task: a place is named at the beginning, other things are told, and at the end the
 * name is asked for. Whoever predicts the name has attended to where it stood.
 *
 * @module
 */
import type { Draws } from "../../train/draws.ts";
import { PASSAGES, placeName, PLACES } from "./coref_text.ts";

/** A sample as token ids. */
export interface CorefSample {
  /** What is prefilled: all up to the question. */
  readonly context: readonly number[];
  /** The question, and the name: what is fed row by row. */
  readonly question: readonly number[];
  readonly answer: readonly number[];
}

/**
 * Puts a sample together.
 *
 * @param encode Ids of a text, without BOS.
 * @param prefix Ids before the text.
 * @param least Tokens that the context has at least.
 */
export function corefSample(
  draws: Draws,
  encode: (text: string) => readonly number[],
  prefix: readonly number[],
  least: number,
): CorefSample {
  const { intro, question } = PLACES[draws.below(PLACES.length)]!;
  const name = placeName((count) => draws.below(count));
  const order = draws.order(PASSAGES.length);
  let text = `${intro} ${name}.`;
  let context: readonly number[] = [];
  for (let i = 0; context.length < least; i++) {
    text += ` ${PASSAGES[order[i % order.length]!]!}`;
    context = [...prefix, ...encode(text)];
  }
  // The name with the blank before it: that is how it stood in the text.
  return { context, question: encode(` ${question}`), answer: encode(` ${name}`) };
}
