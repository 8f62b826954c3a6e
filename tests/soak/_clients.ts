/** Clients of every kind of manners. @module */
import { below, oneOf, type Random } from "../fuzz/_mutate.ts";
import { LOOKERS } from "./_lookers.ts";
import { RUDE } from "./_rude.ts";
import { type Asked, type Manner, type Outcome, PATIENCE_MS, type Question } from "./_manners.ts";
import { post, type Target } from "./_target.ts";

/** Conversations that are answered the same each time: greedy, under several policies. */
export function questions(count: number): Question[] {
  const policies = ["dense", "oracle", "quest", "streaming", "h2o", "snapkv"];
  return Array.from({ length: count }, (_, index) => ({
    prompt: Array.from({ length: 8 + index * 37 % 200 }, (_, i) => 3 + (i * 7 + index * 13) % 200),
    max_tokens: 4 + index * 5 % 40,
    temperature: 0,
    ignore_eos: true,
    ...index % 3 === 0 ? {} : {
      kv: {
        policy: policies[index % policies.length]!,
        sinks: 4,
        window: 8,
        budget: 16,
        interval: 1 + index % 4,
      },
    },
  }));
}

/** Asks and reads the whole answer. */
export async function ask(target: Target, question: Question): Promise<string> {
  const response = await post(
    target,
    0,
    "/v1/completions",
    question,
    AbortSignal.timeout(PATIENCE_MS),
  );
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const { choices } = await response.json() as { choices: { text: string }[] };
  return choices[0]!.text;
}

function same(text: string, answer: string): void {
  if (text !== answer) throw new Error(`another text than alone: ${text} is not ${answer}`);
}

/** Streams to the end, and compares. */
const streams: Manner = async (asked) => {
  const text = await read(asked, {}, Infinity, () => 0);
  if (text === null) return "refused";
  same(text, asked.answer);
  return "answered";
};

/** The same, with pauses between reads. */
const readsSlowly: Manner = async (asked) => {
  const text = await read(asked, {}, Infinity, () => 20 + below(asked.random, 100));
  if (text === null) return "refused";
  same(text, asked.answer);
  return "answered";
};

/** Wants to be told how far the prompt is, and comments often. */
const watchesProgress: Manner = async (asked) => {
  const more = { return_progress: true, sse_ping_interval: 0.05 };
  const text = await read(asked, more, Infinity, () => 0);
  if (text === null) return "refused";
  same(text, asked.answer);
  return "answered";
};

/** Waits for a whole answer, of several choices with log-probabilities. */
const asksForAll: Manner = async ({ target, key, question, answer }) => {
  const body = { ...question, n: 2, logprobs: 2 };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const response = await post(target, key, "/v1/completions", body, signal);
  if (await isFull(response)) return "refused";
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const { choices } = await response.json() as { choices: { text: string }[] };
  if (choices.length !== 2) throw new Error(`${choices.length} choices, not 2`);
  for (const { text } of choices) same(text, answer);
  return "answered";
};

/** Stops after some chunks. */
const stops: Manner = async (asked) =>
  await read(asked, {}, 1 + below(asked.random, 6), () => 0) === null ? "refused" : "left";

/** Leaves before there is anything: in the queue, or while the prompt is processed. */
const leaves: Manner = async ({ target, key, question, random }) => {
  const long = { ...question, prompt: Array.from({ length: 400 }, (_, i) => 3 + i % 200) };
  const gone = new AbortController();
  const timer = setTimeout(() => gone.abort(), below(random, 60));
  try {
    const body = { ...long, stream: true };
    const response = await post(target, key, "/v1/completions", body, gone.signal);
    if (await isFull(response)) return "refused";
    const text = await response.text();
    if (!response.ok) throw new Error(`${response.status}: ${text}`);
    return "answered";
  } catch (error) {
    if (gone.signal.aborted) return "left";
    throw error;
  } finally {
    clearTimeout(timer);
  }
};

/** Every manner, and how often it is taken. */
const MANNERS: readonly (readonly [name: string, weight: number, Manner])[] = [
  ["streams", 30, streams],
  ["reads slowly", 10, readsSlowly],
  ["watches progress", 6, watchesProgress],
  ["asks for all", 6, asksForAll],
  ["stops", 12, stops],
  ["leaves", 12, leaves],
  ...RUDE,
  ...LOOKERS,
];

/** Names of all manners. */
export const MANNER_NAMES: readonly string[] = MANNERS.map(([name]) => name);

function anyManner(random: Random, isLull: boolean): readonly [name: string, Manner] {
  const manners = isLull ? LOOKERS : MANNERS;
  let at = random() * manners.reduce((sum, [, weight]) => sum + weight, 0);
  const [name, , manner] = manners.find(([, weight]) => (at -= weight) < 0) ?? manners[0]!;
  return [name, manner];
}

/** Whether the queue is full, which has to be said as clients can use it. */
async function isFull(response: Response): Promise<boolean> {
  if (response.status !== 429) return false;
  const { error } = await response.json() as { error: { code: string } };
  const seconds = Number(response.headers.get("retry-after"));
  if (error.code !== "queue_full" || !(seconds >= 1 && seconds <= 30)) {
    throw new Error(`429 with the code ${error.code} and retry-after ${seconds}`);
  }
  return true;
}

/**
 * Streams an answer.
 *
 * @param more Members of the request beside those of the question.
 * @param most Chunks after which the client goes.
 * @param pauseMs Time before each read.
 * @returns The text, or null if the queue is full.
 * @throws {Error} If there was an error event, or no end.
 */
async function read(
  { target, key, question }: Asked,
  more: object,
  most: number,
  pauseMs: () => number,
): Promise<string | null> {
  const gone = new AbortController();
  const timer = setTimeout(() => gone.abort(new Error("no answer in time")), PATIENCE_MS);
  try {
    const body = { ...question, ...more, stream: true };
    const response = await post(target, key, "/v1/completions", body, gone.signal);
    if (await isFull(response)) return null;
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    let text = "";
    let rest = "";
    let chunks = 0;
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (line === "data: [DONE]") return text;
        if (!line.startsWith("data: ")) continue;
        const chunk = JSON.parse(line.slice(6)) as Chunk;
        if (chunk.error !== undefined) throw new Error(`error event: ${chunk.error.message}`);
        text += chunk.choices?.[0]?.text ?? "";
        // Leaving the loop cancels the body, which is how a client goes.
        if (++chunks >= most) return text;
      }
      const pause = pauseMs();
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
    }
    throw new Error("the stream ended without [DONE]");
  } finally {
    clearTimeout(timer);
  }
}

interface Chunk {
  readonly error?: { readonly message: string };
  readonly choices?: readonly { readonly text?: string }[];
}

/** Most time that a client waits which was told to come again; they are less patient than told. */
const RETRY_MS = 500;

/** A client: one question after the other, each in some manner, until the time is over. */
export async function client(
  target: Target,
  key: number,
  asked: readonly Question[],
  answers: readonly string[],
  random: Random,
  time: { readonly isOver: () => boolean; readonly isLull: () => boolean },
  count: (name: string, outcome: Outcome) => void,
): Promise<void> {
  while (!time.isOver()) {
    const index = below(random, asked.length);
    const [name, manner] = anyManner(random, time.isLull());
    const question = asked[index]!;
    try {
      const outcome = await manner({ target, key, question, answer: answers[index]!, random });
      count(name, outcome);
      if (outcome !== "refused") continue;
    } catch (cause) {
      throw new Error(`${name}, question ${index}: ${cause}`, { cause });
    }
    await new Promise((resolve) => setTimeout(resolve, oneOf(random, [50, RETRY_MS])));
  }
}
