/** The process in which llama.cpp runs. @module */
import type { PeerReply, PeerRequest } from "./_llama_cpp_protocol.ts";
import { CommandError } from "../src/cli/command.ts";

const FOLDER = new URL("./llama_cpp/", import.meta.url);

/** A running `llama_cpp/peer.ts`. */
export class Peer implements Disposable {
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reader: ReadableStreamDefaultReader<string>;
  #text = "";

  private constructor(process: Deno.ChildProcess) {
    this.#process = process;
    this.#writer = process.stdin.getWriter();
    this.#reader = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /**
   * Starts the process.
   *
   * @param deviceIndex The device, as llama.cpp numbers them. It uses a CPU that plays a GPU only
   *   where it is named.
   * @throws {CommandError} If what it needs is not installed.
   */
  static start(deviceIndex: string): Peer {
    try {
      Deno.statSync(new URL("node_modules/node-llama-cpp", FOLDER));
    } catch {
      throw new CommandError("node-llama-cpp is missing: run `npm ci` in bench/llama_cpp first");
    }
    const deno = Deno.execPath();
    const permissions = ["read", "env", "sys", "ffi", `run=${deno}`].map((p) => `--allow-${p}`);
    const command = new Deno.Command(deno, {
      args: ["run", "-q", "--no-prompt", ...permissions, "peer.ts"],
      cwd: FOLDER,
      env: { GGML_VK_VISIBLE_DEVICES: deviceIndex },
      stdin: "piped",
      stdout: "piped",
    });
    return new Peer(command.spawn());
  }

  /**
   * Sends a request and waits for its answer.
   *
   * @throws {CommandError} If it failed, or the process ended.
   */
  async ask(request: PeerRequest): Promise<PeerReply> {
    await this.#writer.write(new TextEncoder().encode(`${JSON.stringify(request)}\n`));
    const reply = JSON.parse(await this.#line()) as PeerReply;
    if (reply.error !== undefined) throw new CommandError(`llama.cpp: ${reply.error}`);
    return reply;
  }

  async #line(): Promise<string> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      const { value, done } = await this.#reader.read();
      if (done) throw new CommandError("the process of llama.cpp ended before it answered");
      this.#text += value;
    }
  }

  [Symbol.dispose](): void {
    this.#process.kill();
  }
}
