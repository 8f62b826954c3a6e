/** The client of `bench http`, in a thread of its own: its work is not the server's. @module */
import process from "node:process";
import { type Load, type LoadTimes, runOverHttp } from "./_http_load.ts";

/** What the client found; its processor time is in microseconds. */
export type ClientReply =
  | { readonly times: LoadTimes; readonly clientMicros: number }
  | { readonly error: string };

/** What the client is told. */
export interface ClientTask {
  readonly url: string;
  readonly load: Load;
}

if ("DedicatedWorkerGlobalScope" in globalThis) {
  const scope = self as unknown as {
    onmessage: ((event: MessageEvent<ClientTask>) => void) | null;
    postMessage(message: ClientReply): void;
  };
  scope.onmessage = async ({ data: { url, load } }) => {
    const begun = process.threadCpuUsage();
    try {
      const times = await runOverHttp(url, load);
      const { user, system } = process.threadCpuUsage(begun);
      scope.postMessage({ times, clientMicros: user + system });
    } catch (error) {
      scope.postMessage({ error: String(error) });
    }
  };
}
