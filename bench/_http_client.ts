/** The client of `bench http`, in a thread of its own: its work is not the server's. @module */
import { type Load, runOverHttp } from "./_http_load.ts";

/** What the client is told. */
export interface ClientTask {
  readonly url: string;
  readonly load: Load;
}

if ("DedicatedWorkerGlobalScope" in globalThis) {
  const scope = self as unknown as {
    onmessage: ((event: MessageEvent<ClientTask>) => void) | null;
    postMessage(message: unknown): void;
  };
  scope.onmessage = ({ data: { url, load } }) =>
    void runOverHttp(url, load).then(
      (times) => scope.postMessage({ times }),
      (error) => scope.postMessage({ error: String(error) }),
    );
}
