/** Flags about how long a server waits for whom, and what it does when it is to end. @module */
import { DEFAULT_PACE, pingMs, type StreamPace } from "../server/pace.ts";
import { MAX_PING_SECONDS } from "../server/schemas.ts";
import { type Settings, switchFlag, valueFlag } from "./flags.ts";
import { decimal } from "./values.ts";

const group = "Life";
const MOST_SECONDS = 86_400;
const seconds = (ms: number | null) => (ms ?? 0) / 1000;

/** Streams, the end of the process, and its next start. */
export const lifeFlags = {
  ssePingInterval: valueFlag({
    group,
    help: "seconds of silence after which a stream gets a comment, so that nobody on the way " +
      "takes it for dead; 0 or -1 is never, and a request's sse_ping_interval comes first",
    placeholder: "SECONDS",
    schema: decimal(-1, MAX_PING_SECONDS),
    fallback: seconds(DEFAULT_PACE.pingMs),
  }),
  stallTimeout: valueFlag({
    group,
    help: "seconds without reading after which a client's answer is given up, and after as many " +
      "again its connection; 0 is never",
    placeholder: "SECONDS",
    schema: decimal(0, MOST_SECONDS),
    fallback: seconds(DEFAULT_PACE.stallMs),
  }),
  drainTimeout: valueFlag({
    group,
    help: "seconds that running answers have to complete after SIGTERM or Ctrl-C, before they " +
      "end with an error",
    placeholder: "SECONDS",
    schema: decimal(0, MOST_SECONDS),
    fallback: 25,
  }),
  hangTimeout: valueFlag({
    group,
    help:
      "seconds in which the engine may complete nothing while it has work, before it counts as " +
      "lost: more than the longest piece of a prompt takes; 0 is never",
    placeholder: "SECONDS",
    schema: decimal(0, MOST_SECONDS),
    fallback: 600,
  }),
  supervise: switchFlag({
    group,
    help: "runs the server in a process of its own, and starts it again when that fails",
  }),
} as const;

/** Milliseconds until a connection is closed whose client reads nothing; null: never. */
export function unreadMs({ stallTimeout }: Settings<typeof lifeFlags>): number | null {
  return stallTimeout === 0 ? null : 2 * stallTimeout * 1000;
}

/** The pace of streams from settings. */
export function streamPace(settings: Settings<typeof lifeFlags>): StreamPace {
  const { ssePingInterval, stallTimeout } = settings;
  return {
    ...DEFAULT_PACE,
    pingMs: pingMs(ssePingInterval),
    stallMs: stallTimeout === 0 ? null : stallTimeout * 1000,
  };
}
