/**
 * Metrics of LongBench (arXiv 2308.14508): each gives 0 to 1 for an answer and one right answer.
 *
 * @module
 */

/** What a metric may know beside the two texts. */
export interface MetricContext {
  /** Names of all classes; none where the data has none. */
  readonly classes: readonly string[];
}

/** One metric. */
export type Metric = (answer: string, truth: string, context: MetricContext) => number;

/** F1 of two lists, of which each element counts as often as it is there. */
function f1(some: readonly string[], others: readonly string[]): number {
  const left = new Map<string, number>();
  for (const each of others) left.set(each, (left.get(each) ?? 0) + 1);
  let same = 0;
  for (const each of some) {
    const count = left.get(each) ?? 0;
    if (count > 0) same++;
    left.set(each, count - 1);
  }
  if (same === 0) return 0;
  const [precision, recall] = [same / some.length, same / others.length];
  return 2 * precision * recall / (precision + recall);
}

const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** Words of a text: small letters, no ASCII punctuation, no articles. */
export function plainWords(text: string): string[] {
  return text.toLowerCase().replace(PUNCTUATION, "").replace(/\b(a|an|the)\b/g, " ").trim()
    .split(/\s+/).filter((word) => word !== "");
}

/** F1 of the words of both texts. */
export const qaF1: Metric = (answer, truth) => f1(plainWords(answer), plainWords(truth));

/** Sentences end with a point; what is between two blanks is a word, also nothing. */
function sentences(text: string): string[][] {
  return text.split(".").filter((part) => part !== "")
    .map((part) => part.trim().split(/\s+/));
}

/** The words of a longest common subsequence. */
function commonWords(truth: readonly string[], answer: readonly string[]): string[] {
  const width = answer.length + 1;
  const lengths = new Uint32Array((truth.length + 1) * width);
  for (let i = 1; i <= truth.length; i++) {
    for (let j = 1; j < width; j++) {
      lengths[i * width + j] = truth[i - 1] === answer[j - 1]
        ? lengths[(i - 1) * width + j - 1]! + 1
        : Math.max(lengths[(i - 1) * width + j]!, lengths[i * width + j - 1]!);
    }
  }
  const found: string[] = [];
  let [i, j] = [truth.length, answer.length];
  while (i > 0 && j > 0) {
    if (truth[i - 1] === answer[j - 1]) {
      found.push(truth[i - 1]!);
      i--;
      j--;
    } else if (lengths[(i - 1) * width + j]! > lengths[i * width + j - 1]!) i--;
    else j--;
  }
  return found;
}

/**
 * ROUGE-L of summaries, F: the different words that any two sentences have in common in their order,
 * over the different words of each text.
 */
export const rougeL: Metric = (answer, truth) => {
  const [mine, right] = [sentences(answer), sentences(truth)];
  if (mine.length === 0 || right.length === 0) return 0;
  const common = new Set<string>();
  for (const of of right) {
    for (const by of mine) for (const word of commonWords(of, by)) common.add(word);
  }
  const precision = common.size / new Set(mine.flat()).size;
  const recall = common.size / new Set(right.flat()).size;
  return 2 * precision * recall / (precision + recall + 1e-8);
};

/** One over the number of classes that the answer names, if the right one is among them. */
export const classification: Metric = (answer, truth, { classes }) => {
  // A class whose name is part of the right one's is named with it.
  const named = classes.filter((name) =>
    answer.includes(name) && (name === truth || !truth.includes(name))
  );
  return named.includes(truth) ? 1 / named.length : 0;
};

/** Share of a text's numbers that are the right one. */
function shareOfNumbers(text: string, right: string): number {
  const numbers = text.match(/\d+/g) ?? [];
  return numbers.length === 0
    ? 0
    : numbers.filter((number) => number === right).length / numbers.length;
}

/** Share of the answer's numbers that are the right paragraph's. */
export const retrieval: Metric = (answer, truth) =>
  shareOfNumbers(answer, truth.match(/\d+/)?.[0] ?? "");

/** Share of the answer's numbers that are the right one. */
export const counting: Metric = (answer, truth) => shareOfNumbers(answer, truth.trim());

/** Letters that two texts have in common in their order, over those of both, in whole percent. */
export function similarity(some: string, other: string): number {
  if (some === "" || other === "") return 0;
  const [a, b] = [[...some], [...other]];
  const common = commonWords(a, b).length;
  return Math.round(200 * common / (a.length + b.length)) / 100;
}

/** Similarity of the answer's first line of code. */
export const codeSimilarity: Metric = (answer, truth) => {
  const lines = answer.replace(/^\n+/, "").split("\n");
  return similarity(lines.find((line) => !/`|#|\/\//.test(line)) ?? "", truth);
};
