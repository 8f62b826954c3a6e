/** The English data sets of LongBench: how they are asked, in our own words, and scored. @module */
import {
  classification,
  codeSimilarity,
  counting,
  type Metric,
  qaF1,
  retrieval,
  rougeL,
} from "./metrics.ts";

/** A data set. */
export interface Dataset {
  /** Name of its file, without `.jsonl`. */
  readonly name: string;
  readonly metric: Metric;
  /** Tokens that an answer has at most. */
  readonly maxTokens: number;
  /** What is said: `{context}` and `{input}` stand for the sample's own. */
  readonly prompt: string;
  /** Goes on from what is said: not in the form of a chat, as examples or code. */
  readonly continues?: boolean;
  /** Only the first line of an answer counts. */
  readonly firstLine?: boolean;
}

const BRIEFLY = "Give the answer alone, in as few words as you can.";

function overPassages(name: string): Dataset {
  return {
    name,
    metric: qaF1,
    maxTokens: 32,
    prompt: `These passages are needed to answer a question.\n\n{context}\n\n` +
      `From the passages, answer this: {input}\n${BRIEFLY}`,
  };
}

function summary(name: string, what: string): Dataset {
  return {
    name,
    metric: rougeL,
    maxTokens: 512,
    prompt: `Here ${what}.\n\n{context}\n\nWrite a summary of it on one page.`,
  };
}

function code(name: string): Dataset {
  return {
    name,
    metric: codeSimilarity,
    maxTokens: 64,
    prompt: "{context}{input}",
    continues: true,
  };
}

/** Those that are known. */
export const DATASETS: readonly Dataset[] = [
  {
    name: "narrativeqa",
    metric: qaF1,
    maxTokens: 128,
    prompt: `Here is a story, a book or the script of a film.\n\n{context}\n\n` +
      `A question about it: {input}\n${BRIEFLY}`,
  },
  {
    name: "qasper",
    metric: qaF1,
    maxTokens: 128,
    prompt:
      "Here is a scientific article.\n\n{context}\n\nA question about the article: {input}\n" +
      `${BRIEFLY} Say "unanswerable" if the article does not tell; for a question of yes or no, ` +
      'say "yes", "no" or "unanswerable".',
  },
  {
    name: "multifieldqa_en",
    metric: qaF1,
    maxTokens: 64,
    prompt: `Here is a text.\n\n{context}\n\nA question about the text: {input}\n${BRIEFLY}`,
  },
  overPassages("hotpotqa"),
  overPassages("2wikimqa"),
  overPassages("musique"),
  {
    name: "triviaqa",
    metric: qaF1,
    maxTokens: 32,
    prompt:
      "Each question is answered from its passage, and the answer is given alone. The first " +
      "ones are examples.\n\n{context}\n\n{input}",
    continues: true,
    firstLine: true,
  },
  summary("gov_report", "is a report of a public authority"),
  {
    name: "qmsum",
    metric: rougeL,
    maxTokens: 512,
    prompt: "Here are the minutes of a meeting.\n\n{context}\n\n" +
      "In a few sentences, answer this from the minutes: {input}",
  },
  summary("multi_news", "are several reports of the same news"),
  {
    name: "samsum",
    metric: rougeL,
    maxTokens: 128,
    prompt: "Each conversation is summed up in a few words. The first ones are examples.\n\n" +
      "{context}\n\n{input}",
    continues: true,
    firstLine: true,
  },
  {
    name: "trec",
    metric: classification,
    maxTokens: 64,
    prompt: "Each question has a type. The first ones are examples.\n\n{context}\n{input}",
    continues: true,
    firstLine: true,
  },
  {
    name: "passage_retrieval_en",
    metric: retrieval,
    maxTokens: 32,
    prompt: "Here are thirty numbered paragraphs.\n\n{context}\n\nThis sums up one of them:\n\n" +
      "{input}\n\nWhich one? Answer in the form: Paragraph 1.",
  },
  {
    name: "passage_count",
    metric: counting,
    maxTokens: 32,
    prompt: "Some of these numbered paragraphs are there more than once.\n\n{context}\n\n" +
      "How many different paragraphs are there? Answer with the number alone.",
  },
  code("lcc"),
  code("repobench-p"),
];

/** One sample of a data set, as its files have it. */
export interface DatasetSample {
  readonly input: string;
  readonly context: string;
  readonly answers: readonly string[];
  /** Names of all classes; null where there are none. */
  readonly all_classes: readonly string[] | null;
}

/** What is said for a sample. */
export function promptOf({ prompt }: Dataset, { context, input }: DatasetSample): string {
  // What is put in is left as it is, also where it looks like a place to put something in.
  return prompt.replace(/\{(context|input)\}/g, (_, name) => name === "context" ? context : input);
}

/** The best score over the right answers. */
export function scoreAnswer(
  { metric, firstLine }: Dataset,
  { answers, all_classes }: DatasetSample,
  answer: string,
): number {
  const text = firstLine === true ? answer.replace(/^\n+/, "").split("\n")[0]! : answer;
  const scores = answers.map((truth) => metric(text, truth, { classes: all_classes ?? [] }));
  return Math.max(0, ...scores);
}

/** Keeps the first and the last half of what a list has room for. */
export function middleCut<T>(items: readonly T[], room: number): readonly T[] {
  if (items.length <= room) return items;
  const first = Math.floor(room / 2);
  return [...items.slice(0, first), ...items.slice(items.length - (room - first))];
}
