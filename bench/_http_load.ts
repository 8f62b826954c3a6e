/** The same load on an engine directly and through HTTP. @module */
import type { Engine, GenerateRequest } from "../src/engine/types.ts";
import { GREEDY } from "../src/engine/types.ts";

/** Requests of some streams that run side by side. */
export interface Load {
  /** Streams; each takes the next request once it was answered and has thought. */
  readonly streams: number;
  readonly requests: readonly LoadRequest[];
}

/** What is asked once, with a greedy choice and no end before all tokens are there. */
export interface LoadRequest {
  readonly prompt: readonly number[];
  /** Tokens of the answer. */
  readonly tokens: number;
  /** Milliseconds before it is sent. */
  readonly thinkMs: number;
}

/** Times of the answers, in milliseconds. */
export interface LoadTimes {
  /** From a request to its first token, in the order of the load. */
  readonly first: readonly number[];
  /** Ids of the answers, in the order of `first`. */
  readonly ids: readonly string[];
  /** Between a piece of an answer and the one before it: hardly ever more than one token. */
  readonly each: readonly number[];
  readonly tokens: number;
  readonly wallMs: number;
}

/** What came as an answer. */
interface Answered {
  readonly id: string;
  readonly numTokens: number;
}

const delay = (ms: number) => new Promise<void>((go) => setTimeout(go, ms));

/** Runs a load; `answer` calls back at each piece of an answer. */
async function runLoad(
  { streams, requests }: Load,
  answer: (request: LoadRequest, onPiece: () => void) => Promise<Answered>,
): Promise<LoadTimes> {
  const first = new Array<number>(requests.length);
  const ids = new Array<string>(requests.length);
  const each: number[] = [];
  let tokens = 0;
  const begin = performance.now();
  const waiting = requests.entries();
  await Promise.all(Array.from({ length: streams }, async () => {
    // All streams take from the same list, so that they end at about the same time.
    for (const [index, request] of waiting) {
      if (request.thinkMs > 0) await delay(request.thinkMs);
      const asked = performance.now();
      let begun: number | undefined;
      let last: number | undefined;
      const { id, numTokens } = await answer(request, () => {
        const now = performance.now();
        if (last !== undefined) each.push(now - last);
        last = now;
        begun ??= now;
      });
      if (begun === undefined) throw new Error("an answer had no token");
      first[index] = begun - asked;
      ids[index] = id;
      tokens += numTokens;
    }
  }));
  return { first, ids, each, tokens, wallMs: performance.now() - begin };
}

let requestId = 0;

/**
 * What the API makes of a request of {@linkcode runOverHttp}: what the engine is asked must not
 * differ.
 *
 * @param endIds Of the model; `ignore_eos` bans them.
 */
export function directRequest(
  id: string,
  { prompt, tokens }: LoadRequest,
  endIds: Iterable<number>,
): GenerateRequest {
  return {
    id,
    promptIds: prompt,
    maxTokens: tokens,
    minTokens: 0,
    stopTokenIds: [],
    bannedTokenIds: [...endIds],
    sampling: GREEDY,
    logprobs: null,
    promptLogprobs: null,
    cachePrompt: false,
  };
}

/** The load on the engine itself. */
export function runDirectly(
  engine: Engine,
  load: Load,
  endIds: Iterable<number>,
): Promise<LoadTimes> {
  return runLoad(load, async (request, onPiece) => {
    const id = `direct-${requestId++}`;
    let numTokens = 0;
    for await (const event of engine.generate(directRequest(id, request, endIds))) {
      if (event.type === "error") throw new Error(event.error.message);
      if (event.type !== "token") continue;
      numTokens++;
      onPiece();
    }
    return { id, numTokens };
  });
}

/** The load through the API; runs in the client's worker. */
export function runOverHttp(url: string, load: Load): Promise<LoadTimes> {
  return runLoad(load, async ({ prompt, tokens }, onPiece) => {
    const response = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        prompt,
        max_tokens: tokens,
        temperature: 0,
        ignore_eos: true,
        stream: true,
        stream_options: { include_usage: true },
        cache_prompt: false,
      }),
    });
    if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
    let rest = "";
    let id = "";
    let numTokens = 0;
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (!line.startsWith("data: {")) continue;
        const chunk = JSON.parse(line.slice(6)) as Chunk;
        if (chunk.error !== undefined) throw new Error(chunk.error.message);
        // A chunk may be text of several tokens: how many there were says the usage.
        if ((chunk.choices?.length ?? 0) > 0) onPiece();
        id = chunk.id;
        numTokens = chunk.usage?.completion_tokens ?? numTokens;
      }
    }
    return { id, numTokens };
  });
}

interface Chunk {
  readonly id: string;
  readonly error?: { readonly message: string };
  readonly choices?: readonly unknown[];
  readonly usage?: { readonly completion_tokens: number } | null;
}
