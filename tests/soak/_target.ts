/** The server that is soaked, as clients and as its operator see it. @module */

/** Where it is, and who may ask. */
export interface Target {
  readonly url: string;
  /** Each is a client of its own to the server: they share no cached rows. */
  readonly keys: readonly string[];
  /** Keeps connections; the usual one if absent. */
  readonly client?: Deno.HttpClient;
}

/** What a server has in use. */
export interface Load {
  /** Share of the pages on the device. */
  readonly pages: number;
  readonly running: number;
  readonly waiting: number;
  readonly parked: number;
  readonly busySlots: number;
  /** Bytes of rows in host memory, and blocks that only wait to be found. */
  readonly hostBytes: number;
  readonly cachedBlocks: number;
  /** Memory of the process, and the heap of its main isolate. */
  readonly residentBytes: number;
  readonly heapBytes: number;
}

/** Asks as one of those who may. */
export function request(
  { url, keys, client }: Target,
  key: number,
  path: string,
  init: RequestInit = {},
): Promise<Response> {
  const headers = new Headers(init.headers);
  if (!headers.has("authorization")) {
    headers.set("authorization", `Bearer ${keys[key % keys.length]}`);
  }
  return fetch(url + path, { ...init, headers, ...client === undefined ? {} : { client } });
}

/** The same, with a JSON body. */
export function post(
  target: Target,
  key: number,
  path: string,
  body: object,
  signal?: AbortSignal,
): Promise<Response> {
  return request(target, key, path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...signal === undefined ? {} : { signal },
  });
}

/** A step that compiles kernels on a busy machine can keep the engine from answering for a while. */
const MOST_SILENT_MS = 60_000;

/** The slots; a server whose engine is in a long step says 503 and is asked again. */
async function slotsOf(target: Target): Promise<{ readonly is_processing: boolean }[]> {
  const begun = performance.now();
  while (true) {
    const response = await request(target, 0, "/slots");
    if (response.ok) return await response.json();
    const text = await response.text();
    if (response.status !== 503 || performance.now() - begun > MOST_SILENT_MS) {
      throw new Error(`/slots: ${response.status}: ${text}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

/** What is in use now, by `/metrics` and `/slots`. */
export async function loadOf(target: Target): Promise<Load> {
  const page = await (await request(target, 0, "/metrics")).text();
  const slots = await slotsOf(target);
  const value = (name: string, label = "") => {
    const line = page.split("\n").find((line) => line.startsWith(name) && line.includes(label));
    if (line === undefined) throw new Error(`/metrics has no ${name}`);
    return Number(line.slice(line.lastIndexOf(" ") + 1));
  };
  return {
    pages: value("vllm:kv_cache_usage_perc{"),
    running: value("vllm:num_requests_running{"),
    waiting: value("vllm:num_requests_waiting{"),
    parked: value("tokenbutler_parked_sequences{"),
    busySlots: slots.filter(({ is_processing }) => is_processing).length,
    hostBytes: value("tokenbutler_kv_bytes{", 'tier="host"'),
    cachedBlocks: value("tokenbutler_prefix_blocks{"),
    residentBytes: value("process_resident_memory_bytes{"),
    heapBytes: value("process_heap_bytes{"),
  };
}

/** What has to be as before once nobody asks any more. */
export function inUse({ pages, running, waiting, parked, busySlots }: Load) {
  return { pages, running, waiting, parked, busySlots };
}
