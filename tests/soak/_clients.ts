/** Clients of every kind of manners. @module */
import { below, oneOf, type Random } from "../fuzz/_mutate.ts";
import { spoiledRequest } from "../fuzz/_requests.ts";

/** What a client asks for, and what one client alone is answered. */
export interface Question {
  readonly path: string;
  readonly body: object;
}

/** How a client ended. */
export type Outcome = "answered" | "refused" | "left";

/** Most time that an answer may take, in milliseconds. */
const PATIENCE_MS = 120_000;

/** Conversations that are answered the same each time: greedy, under several policies. */
export function questions(count: number): Question[] {
  return Array.from({ length: count }, (_, index) => {
    const body = {
      prompt: Array.from(
        { length: 8 + index * 37 % 200 },
        (_, i) => 3 + (i * 7 + index * 13) % 200,
      ),
      max_tokens: 4 + index * 5 % 40,
      temperature: 0,
      ignore_eos: true,
      ...index % 3 === 0 ? {} : {
        kv: {
          policy: oneOfList(["dense", "oracle", "quest", "streaming"], index),
          sinks: 4,
          window: 8,
          budget: 16,
          interval: 1 + index % 4,
        },
      },
    };
    return { path: "/v1/completions", body };
  });
}

function oneOfList<T>(of: readonly T[], index: number): T {
  return of[index % of.length]!;
}

/** Asks and reads the whole answer. */
export async function ask(url: string, { path, body }: Question): Promise<string> {
  const response = await post(url + path, body, AbortSignal.timeout(PATIENCE_MS));
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const { choices } = await response.json() as { choices: { text: string }[] };
  return choices[0]!.text;
}

/** A thing that a client does; gives how it ended, throws where the server did wrong. */
type Manner = (url: string, question: Question, answer: string, random: Random) => Promise<Outcome>;

/** Streams to the end, and compares. */
const streams: Manner = async (url, question, answer) => {
  const text = await read(url, question, Infinity, () => 0);
  if (text === null) return "refused";
  if (text !== answer) throw new Error(`another text than alone: ${text} is not ${answer}`);
  return "answered";
};

/** The same, with pauses between reads. */
const readsSlowly: Manner = async (url, question, answer, random) => {
  const text = await read(url, question, Infinity, () => 20 + below(random, 100));
  if (text === null) return "refused";
  if (text !== answer) throw new Error(`another text than alone: ${text} is not ${answer}`);
  return "answered";
};

/** Stops after some chunks. */
const stops: Manner = async (url, question, _answer, random) =>
  await read(url, question, 1 + below(random, 6), () => 0) === null ? "refused" : "left";

/** Leaves before there is anything: in the queue, or while the prompt is processed. */
const leaves: Manner = async (url, { path, body }, _answer, random) => {
  const long = { ...body, prompt: Array.from({ length: 400 }, (_, i) => 3 + i % 200) };
  const gone = new AbortController();
  const timer = setTimeout(() => gone.abort(), below(random, 60));
  try {
    const response = await post(url + path, { ...long, stream: true }, gone.signal);
    await response.text();
    return response.ok ? "answered" : "refused";
  } catch (error) {
    if (gone.signal.aborted) return "left";
    throw error;
  } finally {
    clearTimeout(timer);
  }
};

/** Sends what makes no sense. */
const sendsRubbish: Manner = async (url, _question, _answer, random) => {
  const { path, init } = spoiledRequest(random);
  const signal = AbortSignal.timeout(1 + below(random, 2000));
  try {
    const response = await fetch(url + path, { ...init, signal });
    await response.text();
    if (response.status >= 500 && response.status !== 503) {
      throw new Error(`${response.status} for ${path}`);
    }
    return response.ok ? "answered" : "refused";
  } catch (error) {
    if (signal.aborted) return "left";
    throw error;
  }
};

/** Every manner, the common one more often. */
export const MANNERS: readonly (readonly [name: string, Manner])[] = [
  ["streams", streams],
  ["streams", streams],
  ["streams", streams],
  ["reads slowly", readsSlowly],
  ["stops", stops],
  ["leaves", leaves],
  ["sends rubbish", sendsRubbish],
];

/**
 * Streams an answer.
 *
 * @param most Chunks after which the client goes.
 * @param pauseMs Time before each read.
 * @returns The text, or null if the server has no room now.
 * @throws {Error} If there was an error event, or no end.
 */
async function read(
  url: string,
  { path, body }: Question,
  most: number,
  pauseMs: () => number,
): Promise<string | null> {
  const gone = new AbortController();
  const timer = setTimeout(() => gone.abort(new Error("no answer in time")), PATIENCE_MS);
  try {
    const response = await post(url + path, { ...body, stream: true }, gone.signal);
    if (response.status === 429 || response.status === 503) {
      await response.body?.cancel();
      return null;
    }
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

function post(url: string, body: object, signal: AbortSignal): Promise<Response> {
  return fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}

/** A client: one question after the other, each in some manner, until the time is over. */
export async function client(
  url: string,
  asked: readonly Question[],
  answers: readonly string[],
  random: Random,
  isOver: () => boolean,
  count: (name: string, outcome: Outcome) => void,
): Promise<void> {
  while (!isOver()) {
    const index = below(random, asked.length);
    const [name, manner] = oneOf(random, MANNERS);
    count(name, await manner(url, asked[index]!, answers[index]!, random));
  }
}
