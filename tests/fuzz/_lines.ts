/** Bytes on a connection that are no HTTP, or hardly. @module */
import { assert } from "std-testing";
import type { Engine } from "../../src/engine/types.ts";
import { DEADLINE_MS, type FuzzCase } from "./_cases.ts";
import { caseRandom, mutateBytes, type Mutation, oneOf, type Random } from "./_mutate.ts";
import { checkError, numAtWork } from "./_requests.ts";

/** How long a client that said all waits for the next bytes of an answer. */
const SILENCE_MS = 900;

/** Requests that are good before they are spoiled. */
function messages(key: string): Uint8Array<ArrayBuffer>[] {
  const auth = `host: localhost\r\nauthorization: Bearer ${key}\r\n`;
  const json = JSON.stringify({ content: "a b c" });
  const piece = JSON.stringify({ tokens: [1, 2, 3] });
  const stream = JSON.stringify({ prompt: [1, 2, 3], max_tokens: 2, stream: true });
  const post = (path: string, more: string, body: string) =>
    `POST ${path} HTTP/1.1\r\n${auth}content-type: application/json\r\n${more}\r\n${body}`;
  const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`;
  const chunked = `${chunk(piece.slice(0, 7))}${chunk(piece.slice(7))}0\r\n\r\n`;
  return [
    `GET /health HTTP/1.1\r\n${auth}\r\n`,
    `HEAD /v1/models HTTP/1.0\r\n${auth}connection: keep-alive\r\n\r\n`,
    post("/tokenize", `content-length: ${json.length}\r\n`, json),
    post("/detokenize", "transfer-encoding: chunked\r\n", chunked),
    post("/v1/completions", `content-length: ${stream.length}\r\n`, stream),
    post("/tokenize", `content-length: ${json.length}\r\nexpect: 100-continue\r\n`, json),
    `OPTIONS /v1/completions HTTP/1.1\r\n${auth}origin: http://localhost:3000\r\n` +
    "access-control-request-method: POST\r\n\r\n",
  ].map((text) => new TextEncoder().encode(text));
}

/** A request that is spoiled as bytes. */
export function spoiledLine(random: Random, key: string): Mutation {
  let bytes = oneOf(random, messages(key));
  const notes: string[] = [];
  for (let times = random() < 0.7 ? 1 : 3; times > 0; times--) {
    const mutation = mutateBytes(bytes, Infinity, random);
    notes.push(mutation.note);
    bytes = mutation.bytes;
  }
  const text = JSON.stringify(new TextDecoder("latin1").decode(bytes));
  return { note: `${notes.join(", ")}: ${text}`, bytes };
}

/** Connections to a server, from a seed. All that is answered is HTTP, and what is no answer ends. */
export function* lineCases(
  server: { readonly url: string; readonly engine: Engine; readonly key?: string },
  seed: number,
  first: number,
  count: number,
): Generator<FuzzCase> {
  for (let index = first; index < first + count; index++) {
    const { note, bytes } = spoiledLine(caseRandom(seed, index), server.key ?? "none");
    yield {
      note,
      bytes: bytes.byteLength,
      async run() {
        const isTaken = await talk(server.url, bytes, SILENCE_MS);
        const until = performance.now() + DEADLINE_MS;
        while (await numAtWork(server.engine) > 0) {
          assert.ok(performance.now() < until, "something goes on for a client that is gone");
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        return isTaken;
      },
    };
  }
}

/**
 * Says all, closes its side, and reads to the end.
 *
 * @param patienceMs How long the client waits for the end.
 * @returns Whether there was an answer that is no error.
 */
export async function talk(url: string, bytes: Uint8Array, patienceMs: number): Promise<boolean> {
  const { hostname, port } = new URL(url);
  const connection = await Deno.connect({ hostname, port: Number(port) });
  let isLate = false;
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  const timer = setTimeout(() => {
    isLate = true;
    connection.close();
  }, patienceMs);
  try {
    const buffer = new Uint8Array(65536);
    for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
    await connection.closeWrite();
    for (;;) {
      const read = await connection.read(buffer);
      if (read === null) break;
      chunks.push(buffer.slice(0, read));
    }
  } catch (error) {
    if (isLate) throw new Error(`neither an answer nor an end within ${patienceMs} ms`);
    // The server may be done, and gone, before all is said.
    const isOver = error instanceof Deno.errors.ConnectionReset ||
      error instanceof Deno.errors.BrokenPipe || error instanceof Deno.errors.NotConnected;
    if (!isOver) throw error;
  } finally {
    clearTimeout(timer);
    if (!isLate) connection.close();
  }
  return judge(await new Blob(chunks).text());
}

function judge(answer: string): boolean {
  if (answer === "") return false;
  const status = Number(answer.match(/^HTTP\/1\.1 (\d{3}) /)?.[1]);
  assert.ok(status >= 100 && status < 500 || status === 501, `no answer of HTTP: ${answer}`);
  if (status < 400) return true;
  const body = answer.match(/^[^]*?\r\n\r\n(\{[^]*\})/)?.[1];
  // A second request on the same connection has an answer of its own behind the first.
  if (body !== undefined && !body.includes("HTTP/1.1 ")) checkError(body);
  return false;
}
