/** `serve` with a real engine in its worker, and ways to hurt that. @module */
import { runCommand } from "../../src/cli/cli.ts";
import { serveCommand } from "../../src/cli/commands/serve.ts";
import { openTextSide } from "../../src/cli/text_side.ts";
import { WorkerEngine } from "../../src/engine/worker_client.ts";
import { noteTo } from "../../src/cli/session.ts";
import { FakeIo } from "./_io.ts";

const MODEL = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;

/**
 * What can be done to a worker: it dies, its device is taken away or hangs, its disk is full or is no more.
 */
export type Hurt = "die" | "destroy" | "hang" | "disk_full" | "disk_free";

/** Starts the command on a free port. */
export function startHurtServer(args: readonly string[]) {
  const listening = Promise.withResolvers<string>();
  const io = new FakeIo({
    onOut(self) {
      const url = self.out.match(/^listening on (http:\S+)\n$/)?.[1];
      if (url !== undefined) listening.resolve(url);
    },
  });
  const workers: Worker[] = [];
  const command = serveCommand(openTextSide, (options, io, hangMs = null) => {
    const worker = new Worker(new URL("./_fault_worker.ts", import.meta.url), { type: "module" });
    workers.push(worker);
    return WorkerEngine.start(worker, options, { onNote: noteTo(io), hangMs });
  });
  const code = runCommand(command, ["--port", "0", "--model", MODEL, ...args], io);
  code.catch(listening.reject);
  return {
    io,
    url: listening.promise,
    code,
    /** For tests that fail: else their engines would keep the runner from ending. */
    [Symbol.dispose]() {
      for (const worker of workers) worker.terminate();
      io.interrupt("SIGTERM");
    },
    /** Hurts the newest engine. */
    hurt: (type: Hurt) => workers.at(-1)?.postMessage({ type }),
  };
}
