/** How a stream is kept alive, and how long it waits for its reader. @module */

/** Times of a stream in milliseconds; null: never. */
export interface StreamPace {
  /** Silence after which a comment is sent. */
  readonly pingMs: number | null;
  /** Time without reading after which a client is slow: its sequences make room for others. */
  readonly slowMs: number | null;
  /** Time without reading after which an answer is given up. */
  readonly stallMs: number | null;
}

/** No comments, and all the time of the world. */
export const OPEN_PACE: StreamPace = { pingMs: null, slowMs: null, stallMs: null };

/** What a server does that is told nothing else. Proxies cut silent connections after a minute. */
export const DEFAULT_PACE: StreamPace = { pingMs: 15_000, slowMs: 2000, stallMs: 60_000 };

/** Comments come no faster than this, whatever a request asks for. */
const LEAST_PING_MS = 50;

/** Seconds between comments as an interval; 0 and less: none. */
export function pingMs(seconds: number): number | null {
  return seconds <= 0 ? null : Math.max(LEAST_PING_MS, seconds * 1000);
}

/** The pace of one stream, whose request may name its own interval of comments. */
export function paceOf(pace: StreamPace, pingSeconds: number | undefined): StreamPace {
  return pingSeconds === undefined ? pace : { ...pace, pingMs: pingMs(pingSeconds) };
}
