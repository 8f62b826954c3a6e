/** The same load on an engine directly and through HTTP. @module */
import type { Engine } from "../src/engine/types.ts";
import { GREEDY } from "../src/engine/types.ts";

/** Requests of some streams that run side by side. */
export interface Load {
  /** Streams; each asks again as soon as it was answered. */
  readonly streams: number;
  /** Requests of each stream. */
  readonly requests: number;
  readonly prompts: readonly (readonly number[])[];
  /** Tokens of each answer. */
  readonly tokens: number;
  /** Milliseconds that a stream waits before each of its requests, in order; none: it does not. */
  readonly pauses: readonly number[];
}

/** Times of the answers, in milliseconds. */
export interface LoadTimes {
  /** From the request to the first token. */
  readonly first: readonly number[];
  /** A token after the first, the mean over an answer. */
  readonly each: readonly number[];
  readonly tokens: number;
  readonly wallMs: number;
}

/** Runs a load; `answer` calls back at each piece of an answer and gives its count of tokens. */
async function runLoad(
  { streams, requests, prompts, pauses }: Load,
  answer: (prompt: readonly number[], onPiece: () => void) => Promise<number>,
): Promise<LoadTimes> {
  const first: number[] = [];
  const each: number[] = [];
  let tokens = 0;
  const begin = performance.now();
  await Promise.all(Array.from({ length: streams }, async (_, stream) => {
    for (let request = 0; request < requests; request++) {
      const index = stream * requests + request;
      const pause = pauses[index] ?? 0;
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      const asked = performance.now();
      let begun: number | undefined;
      let last = asked;
      const count = await answer(prompts[index % prompts.length]!, () => {
        last = performance.now();
        begun ??= last;
      });
      if (begun === undefined) throw new Error("an answer had no token");
      first.push(begun - asked);
      if (count > 1) each.push((last - begun) / (count - 1));
      tokens += count;
    }
  }));
  return { first, each, tokens, wallMs: performance.now() - begin };
}

let requestId = 0;

/** The load on the engine itself. */
export function runDirectly(engine: Engine, load: Load): Promise<LoadTimes> {
  return runLoad(load, async (promptIds, onPiece) => {
    const stream = engine.generate({
      id: `direct-${requestId++}`,
      promptIds: [...promptIds],
      maxTokens: load.tokens,
      minTokens: 0,
      stopTokenIds: [],
      bannedTokenIds: [],
      sampling: GREEDY,
      logprobs: null,
      promptLogprobs: null,
      cachePrompt: false,
    });
    let count = 0;
    for await (const event of stream) {
      if (event.type === "error") throw new Error(event.error.message);
      if (event.type !== "token") continue;
      count++;
      onPiece();
    }
    return count;
  });
}

/** The load through the API; runs in the client's worker. */
export function runOverHttp(url: string, load: Load): Promise<LoadTimes> {
  return runLoad(load, async (prompt, onPiece) => {
    const response = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        prompt,
        max_tokens: load.tokens,
        temperature: 0,
        ignore_eos: true,
        stream: true,
        stream_options: { include_usage: true },
        cache_prompt: false,
      }),
    });
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    let rest = "";
    let count = 0;
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (!line.startsWith("data: {")) continue;
        const chunk = JSON.parse(line.slice(6)) as Chunk;
        if (chunk.error !== undefined) throw new Error(chunk.error.message);
        // A chunk may be text of several tokens: how many there were says the usage.
        if ((chunk.choices?.length ?? 0) > 0) onPiece();
        count = chunk.usage?.completion_tokens ?? count;
      }
    }
    return count;
  });
}

interface Chunk {
  readonly error?: { readonly message: string };
  readonly choices?: readonly unknown[];
  readonly usage?: { readonly completion_tokens: number } | null;
}
