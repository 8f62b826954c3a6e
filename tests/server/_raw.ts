/** A client that says what no HTTP client would. @module */

/** A connection that a test writes to and reads from as it likes. */
export class RawClient implements Disposable {
  #decoder = new TextDecoder();

  private constructor(private readonly connection: Deno.TcpConn) {}

  static async connect(server: { readonly url: string }): Promise<RawClient> {
    const { hostname, port } = new URL(server.url);
    return new RawClient(await Deno.connect({ hostname, port: Number(port) }));
  }

  async write(text: string): Promise<void> {
    const writer = this.connection.writable.getWriter();
    await writer.write(new TextEncoder().encode(text));
    writer.releaseLock();
  }

  /** What comes next; undefined at the end, be it a reset. */
  async read(): Promise<string | undefined> {
    const bytes = new Uint8Array(65536);
    const count = await this.connection.read(bytes).catch(() => null);
    return count === null ? undefined : this.#decoder.decode(bytes.subarray(0, count));
  }

  /** All that comes until the connection is closed. */
  async readAll(): Promise<string> {
    let text = "";
    for (let part = await this.read(); part !== undefined; part = await this.read()) text += part;
    return text;
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

/** Status and body of a response as it came over the line. */
export function parseResponse(text: string): { status: number; head: string; body: string } {
  const cut = text.indexOf("\r\n\r\n");
  const head = text.slice(0, cut);
  return { status: Number(head.match(/^HTTP\/1\.1 (\d+)/)?.[1]), head, body: text.slice(cut + 4) };
}

/** A chat with far more to say than sockets take in. */
export const HUGE = {
  messages: [{ role: "user", content: "Say something." }],
  n: 16,
  max_tokens: 450,
  ignore_eos: true,
  logprobs: true,
  top_logprobs: 20,
  stream: true,
};

/** Sends a request and reads nothing of the answer. */
export async function openDeafClient(
  { url }: { readonly url: string },
  body: object,
): Promise<Deno.TcpConn> {
  const { hostname, port } = new URL(url);
  const socket = await Deno.connect({ hostname, port: Number(port) });
  const json = new TextEncoder().encode(JSON.stringify(body));
  const head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" +
    `content-type: application/json\r\ncontent-length: ${json.byteLength}\r\n\r\n`;
  await socket.write(new TextEncoder().encode(head));
  await socket.write(json);
  return socket;
}
