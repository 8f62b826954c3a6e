/** Clients that do what no client should. @module */
import { below, oneOf } from "../fuzz/_mutate.ts";
import { spoiledLine, talk } from "../fuzz/_lines.ts";
import { spoiledRequest } from "../fuzz/_requests.ts";
import { type Asked, type Manner, type Manners, PATIENCE_MS } from "./_manners.ts";
import { request } from "./_target.ts";

/** Sends what makes no sense. */
const sendsRubbish: Manner = async ({ target, key, random }) => {
  const { keys } = target;
  const { path, init } = spoiledRequest(random, keys[key % keys.length]);
  const signal = AbortSignal.timeout(1 + below(random, 2000));
  try {
    const response = await request(target, key, path, { ...init, signal });
    const text = await response.text();
    // Slots may have no room now.
    if (response.status >= 500 && response.status !== 503) {
      throw new Error(`${response.status} for ${path}: ${text}`);
    }
    return response.ok ? "answered" : "refused";
  } catch (error) {
    if (signal.aborted) return "left";
    throw error;
  }
};

/** Sends what is hardly HTTP. */
const sendsNoHttp: Manner = async ({ target: { url, keys }, key, random }) => {
  const { bytes } = spoiledLine(random, keys[key % keys.length]!);
  return await talk(url, bytes, PATIENCE_MS) ? "answered" : "refused";
};

/** Begins a request and says nothing more. */
const stopsTalking: Manner = async (asked) => {
  const head = headOf(asked, 200);
  const cut = oneOf(asked.random, [1, 20, head.length - 3, head.length]);
  using socket = await connect(asked);
  await write(socket, head.slice(0, cut));
  const answer = await readAll(socket);
  // A full queue is said before the body is there.
  if (/^HTTP\/1\.1 429 /.test(answer)) return "refused";
  if (!/^HTTP\/1\.1 408 /.test(answer)) throw new Error(`no 408 but ${answer.slice(0, 200)}`);
  return "given up";
};

/** Asks for much and takes nothing of it, until the server does not wait any more. */
const goesDeaf: Manner = async (asked) => {
  // More than what lies between it and the server can hold.
  const body = JSON.stringify({
    messages: [{ role: "user", content: "Say all." }],
    max_tokens: 450,
    ignore_eos: true,
    n: 4,
    logprobs: true,
    top_logprobs: 20,
    stream: true,
  });
  using socket = await letIn(asked, headOf(asked, body.length, "/v1/chat/completions") + body);
  if (socket === null) return "refused";
  await new Promise((resolve) => setTimeout(resolve, DEAF_MS));
  const answer = await readAll(socket);
  if (!answer.includes("data: [DONE]")) throw new Error("a stream without [DONE]");
  return answer.includes('"client_stalled"') ? "given up" : "answered";
};

/** Time to make all of it, and longer than the server waits then. */
const DEAF_MS = 25_000;
/** How often a client comes again that needs room for several answers. */
const MOST_TRIES = 200;
const TRY_MS = 50;

/** A connection on which a message was taken; null where there never was room. */
async function letIn(asked: Asked, message: string): Promise<Deno.TcpConn | null> {
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const socket = await connect(asked);
    await write(socket, message);
    const buffer = new Uint8Array(12);
    const read = await socket.read(buffer);
    const status = new TextDecoder().decode(buffer.subarray(0, read ?? 0));
    if (status === "HTTP/1.1 200") return socket;
    socket.close();
    if (status !== "HTTP/1.1 429") throw new Error(`neither 200 nor 429 but ${status}`);
    await new Promise((resolve) => setTimeout(resolve, TRY_MS));
  }
  return null;
}

function headOf(
  { target: { keys }, key }: Asked,
  length: number,
  path = "/v1/completions",
): string {
  return `POST ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n` +
    `authorization: Bearer ${keys[key % keys.length]}\r\ncontent-type: application/json\r\n` +
    `content-length: ${length}\r\n\r\n`;
}

function connect({ target }: Asked): Promise<Deno.TcpConn> {
  const { hostname, port } = new URL(target.url);
  return Deno.connect({ hostname, port: Number(port) });
}

async function write(socket: Deno.TcpConn, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += await socket.write(bytes.subarray(at));
}

/** All that comes until the server closes. */
async function readAll(socket: Deno.TcpConn): Promise<string> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(65536);
  let text = "";
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    socket.close();
  }, PATIENCE_MS);
  try {
    for (;;) {
      const read = await socket.read(buffer);
      if (read === null) return text;
      text += decoder.decode(buffer.subarray(0, read), { stream: true });
    }
  } catch (error) {
    if (isLate) throw new Error("the server did not end the connection");
    if (error instanceof Deno.errors.ConnectionReset) return text;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** All of them. */
export const RUDE: Manners = [
  ["sends rubbish", 10, sendsRubbish],
  ["sends no HTTP", 5, sendsNoHttp],
  ["stops talking", 1, stopsTalking],
  ["goes deaf", 0.5, goesDeaf],
];
