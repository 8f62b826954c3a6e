/** Text that something is hidden in. @module */
import type { Draws } from "../../train/draws.ts";

/** A line of short sentences that say nothing. */
export const NOISE = "The lamp is on. The door is shut. Outside it rains. Somebody hums a tune. " +
  "The tea gets cold.";

const SUBJECTS = [
  "a carpenter",
  "the night nurse",
  "my neighbour",
  "an old captain",
  "the two sisters",
  "a student of law",
  "the mayor's brother",
  "a painter of signs",
  "the last guest",
  "our teacher",
  "a man with a red scarf",
  "the woman from the post office",
];
const VERBS = [
  "looked for",
  "remembered",
  "had never seen",
  "wrote about",
  "wanted to sell",
  "talked of",
  "was tired of",
  "had dreamt of",
  "asked after",
  "kept quiet about",
];
const OBJECTS = [
  "the garden behind the church",
  "a ship that had no name",
  "the smell of fresh paint",
  "an afternoon in autumn",
  "the stairs to the cellar",
  "a song without an ending",
  "the light over the marshes",
  "a pair of borrowed shoes",
  "the noise of the mill",
  "an argument about nothing",
  "the weight of wet wool",
  "a garden chair",
];
const CLAUSES = [
  "and nobody found that strange",
  "although the rain had not stopped for days",
  "because there was nothing else to do",
  "while the clock in the hall struck nine",
  "which was more than anybody had expected",
  "but the dog went on sleeping",
  "as one does in such a town",
  "so that supper was late again",
  "and the rest of us listened",
  "until the lamps were lit",
];
const OPENINGS = [
  "In those days",
  "On the following morning",
  "As far as I know",
  "More than once",
  "To tell the truth",
  "Late in the year",
  "When the market was over",
  "Strangely enough",
];

/** Made-up prose, sentence by sentence: it needs no outside data and hardly repeats itself. */
export function* inventedSentences(draws: Draws): Generator<string, never> {
  const one = (list: readonly string[]) => list[draws.below(list.length)]!;
  while (true) {
    const said = `${one(SUBJECTS)} ${one(VERBS)} ${one(OBJECTS)}`;
    const begun = draws.below(2) === 0 ? `${one(OPENINGS)}, ${said}` : said;
    const ended = draws.below(3) === 0 ? begun : `${begun}, ${one(CLAUSES)}`;
    yield `${ended[0]!.toUpperCase()}${ended.slice(1)}.`;
  }
}

/** Sentences of a text, over and over, from a random one on. */
export function* sentencesOf(text: string, draws: Draws): Generator<string, never> {
  const sentences = text.replace(/\s+/g, " ").match(/[^.!?]+[.!?]+["')\]]*/g)
    ?.map((sentence) => sentence.trim()).filter((sentence) => /\p{L}/u.test(sentence)) ?? [];
  if (sentences.length === 0) throw new RangeError("the text has no sentence that ends");
  for (let at = draws.below(sentences.length);; at = (at + 1) % sentences.length) {
    yield sentences[at]!;
  }
}

/**
 * Puts needles between pieces, in their order, at random places.
 *
 * @returns The pieces with the needles among them.
 */
export function hide(
  pieces: readonly string[],
  needles: readonly string[],
  draws: Draws,
): string[] {
  const places = draws.spread(0, pieces.length + 1, Math.min(needles.length, pieces.length + 1));
  // More needles than places share the last one.
  while (places.length < needles.length) places.push(pieces.length);
  const found: string[] = [];
  let next = 0;
  for (let at = 0; at <= pieces.length; at++) {
    while (next < needles.length && places[next] === at) found.push(needles[next++]!);
    if (at < pieces.length) found.push(pieces[at]!);
  }
  return found;
}
