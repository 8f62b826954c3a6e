/** Hands what happens to requests to whoever wants to know. @module */
import type { GenerateRequest } from "../engine/types.ts";
import { type SequenceListener, SequenceRecord } from "./sequence_record.ts";
import type {
  ExchangeHandle,
  ExchangeRecord,
  HeaderReader,
  RefusedConnection,
  RequestWatch,
  Sink,
} from "./types.ts";

/** How an {@linkcode Observer} looks. */
export interface ObserverOptions {
  readonly sinks: readonly Sink[];
  /** Keep the ids of answers; for logs with texts. */
  readonly keepIds?: boolean;
  /** Milliseconds; `performance.now` if not given. */
  readonly now?: () => number;
}

/** What is known of a request when it comes in; a `Request` is one. */
export interface ArrivedRequest {
  readonly method: string;
  readonly headers: HeaderReader;
}

/** Watches requests. */
export class Observer {
  readonly #sinks: readonly Sink[];
  readonly #keepIds: boolean;
  readonly #now: () => number;
  readonly #listener: SequenceListener;
  /** Requests that are not over. */
  readonly #open = new Set<Exchange>();

  constructor({ sinks, keepIds = false, now = () => performance.now() }: ObserverOptions) {
    this.#sinks = sinks;
    this.#keepIds = keepIds;
    this.#now = now;
    // Looked up once: these run for every token.
    const onToken = sinks.filter((sink) => sink.token !== undefined);
    this.#listener = {
      token: (sequence, gapMs) => {
        for (const sink of onToken) sink.token!(sequence, gapMs);
      },
      ended: (sequence) => {
        for (const sink of sinks) sink.ended?.(sequence);
      },
    };
  }

  /** A request came in. */
  begin(id: string, { method, headers }: ArrivedRequest): Exchange {
    const exchange: Exchange = new Exchange(id, method, this.#now, {
      sequence: (request) =>
        new SequenceRecord(exchange, request, this.#listener, this.#keepIds, this.#now),
      over: (record) => {
        this.#open.delete(exchange);
        for (const sink of this.#sinks) sink.exchanged?.(record);
      },
    });
    this.#open.add(exchange);
    for (const sink of this.#sinks) sink.arrived?.(exchange, headers);
    return exchange;
  }

  /** A connection was closed before there was a request on it. */
  refused(connection: RefusedConnection): void {
    for (const sink of this.#sinks) sink.refused?.(connection);
  }

  /** Nothing is sent any more: requests that are not over end as they are. */
  cut(): void {
    for (const exchange of [...this.#open]) exchange.cut();
  }

  /** The engine will not answer again. */
  engineLost(code: string): void {
    for (const sink of this.#sinks) sink.engineLost?.(code);
  }
}

interface ExchangeHost {
  sequence(request: GenerateRequest): SequenceRecord;
  over(exchange: ExchangeRecord): void;
}

/** One request over HTTP. It is over when it was responded to and no stream goes on. */
export class Exchange implements ExchangeHandle, RequestWatch {
  /** On the clock of `performance.now()`. */
  readonly beganMs: number;
  readonly #sequences: SequenceRecord[] = [];
  #route = "other";
  #error: string | null = null;
  #status: number | null = null;
  #streams = false;
  #finished = false;
  #over = false;

  constructor(
    readonly id: string,
    private readonly method: string,
    private readonly now: () => number,
    private readonly host: ExchangeHost,
  ) {
    this.beganMs = now();
  }

  /** A route took the request, given as it is declared. */
  matched(route: string): void {
    this.#route = route;
  }

  /** It is answered with an error. */
  failed(code: string | number | null): void {
    this.#error = code === null ? null : String(code);
  }

  sequence(request: GenerateRequest): SequenceRecord {
    const record = this.host.sequence(request);
    this.#sequences.push(record);
    return record;
  }

  finished(): void {
    this.#finished = true;
    this.#endIfOver();
  }

  /** The response is there; the body of a stream is still to come. */
  responded(response: Response): void {
    this.#status = response.status;
    this.#streams = response.headers.get("content-type")?.startsWith("text/event-stream") ?? false;
    this.#endIfOver();
  }

  /** The server ends, and this with it. */
  cut(): void {
    for (const sequence of this.#sequences) sequence.end("abort");
    if (this.#status === null) this.#error ??= "shutting_down";
    this.#end();
  }

  #endIfOver(): void {
    if (this.#status !== null && (!this.#streams || this.#finished)) this.#end();
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.host.over({
      handle: this,
      method: this.method,
      route: this.#route,
      status: this.#status,
      error: this.#error,
      endedMs: this.now(),
      sequences: this.#sequences,
    });
  }
}
