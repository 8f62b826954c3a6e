/** Answers a planned request, whole or as a stream. @module */
import { asRequestError, clientGone } from "./errors.ts";
import { type DeltaEvent, type FinishEvent, generate } from "./generation.ts";
import type { RequestWatch } from "../observe/types.ts";
import type { SequenceSpec } from "./plan.ts";
import type { ServedModel } from "./served_model.ts";
import { DONE, eventStream, STREAM_HEADERS } from "./sse.ts";
import type { PlacedToken } from "./token_text.ts";
import { type Envelope, Tally } from "./wire.ts";

/** What a route has at hand for one request. */
export interface RequestContext {
  readonly request: Request;
  readonly model: ServedModel;
  readonly servedName: string;
  readonly bodyLimitBytes: number;
  /** Fires when the server ends. */
  readonly stopping: AbortSignal;
  /** Called with errors that come when the answer has already begun. */
  readonly onError: (error: unknown) => void;
  /** Told of the sequences of the request and of its end. */
  readonly watch?: RequestWatch | undefined;
}

/** A choice, complete. */
export interface WholeChoice {
  readonly index: number;
  readonly text: string;
  readonly tokens: readonly PlacedToken[];
  readonly ids: readonly number[];
  readonly reason: FinishEvent["reason"];
}

/** One chunk of a stream: its choice, and members of its own beside `choices`. */
export interface Chunk {
  readonly choice: object;
  readonly extra?: object;
}

/** How one route writes what was generated. */
export interface AnswerShape {
  /** `object` of the whole answer and of a chunk. */
  readonly object: { readonly whole: string; readonly chunk: string };
  whole(choice: WholeChoice): object;
  /** Members of the whole answer beside `choices`. */
  wholeExtra(): object;
  delta(event: DeltaEvent): Iterable<Chunk>;
  finish(event: FinishEvent): Iterable<Chunk>;
}

/** A request that is ready to run. */
export interface PlannedAnswer {
  readonly envelope: Envelope;
  readonly specs: readonly SequenceSpec[];
  /** Tokens of all prompts, each counted once. */
  readonly numPromptTokens: number;
  /** Choices of each prompt. */
  readonly numAnswers: number;
  readonly shape: AnswerShape;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
}

/** A signal of one answer: fires when its client goes away, or when the server ends. */
function answerSignal({ request, stopping, watch }: RequestContext) {
  const controller = new AbortController();
  const gone = () => controller.abort(clientGone());
  const stop = () => controller.abort(stopping.reason);
  // Not AbortSignal.any(): nothing of an answer may stay attached to the signal of the server.
  request.signal.addEventListener("abort", gone);
  stopping.addEventListener("abort", stop);
  if (request.signal.aborted) gone();
  if (stopping.aborted) stop();
  const release = () => {
    request.signal.removeEventListener("abort", gone);
    stopping.removeEventListener("abort", stop);
    watch?.finished();
  };
  return { signal: controller.signal, gone, release };
}

/** Runs the request; the response of a stream comes back before anything is computed. */
export function answer(context: RequestContext, planned: PlannedAnswer): Promise<Response> {
  return planned.stream ? Promise.resolve(streamed(context, planned)) : whole(context, planned);
}

async function whole(context: RequestContext, planned: PlannedAnswer): Promise<Response> {
  const { specs, shape, envelope } = planned;
  const tally = new Tally(planned.numPromptTokens, planned.numAnswers);
  const parts = specs.map(() => ({
    text: [] as string[],
    tokens: [] as PlacedToken[],
    ids: [] as number[],
    reason: "length" as FinishEvent["reason"],
  }));
  const { signal, release } = answerSignal(context);
  try {
    for await (const event of generate(context.model, specs, signal, context.watch)) {
      const part = parts[event.index];
      if (part === undefined) throw new RangeError(`no choice ${event.index}`);
      if (event.type === "finish") {
        tally.finish(event);
        part.reason = event.reason;
      } else {
        part.text.push(event.text);
        for (const token of event.tokens) part.tokens.push(token);
        for (const id of event.ids) part.ids.push(id);
      }
    }
  } finally {
    release();
  }
  return Response.json({
    ...envelope,
    object: shape.object.whole,
    ...shape.wholeExtra(),
    choices: parts.map((part, index) => shape.whole({ index, ...part, text: part.text.join("") })),
    usage: tally.usage(),
    timings: tally.timings(),
    ...tally.kv(),
  });
}

function streamed(context: RequestContext, planned: PlannedAnswer): Response {
  const { signal, gone, release } = answerSignal(context);
  const messages = streamMessages(context, planned, signal, release);
  const onCancel = () => {
    release();
    gone();
  };
  return new Response(eventStream(messages, onCancel), { headers: STREAM_HEADERS });
}

async function* streamMessages(
  context: RequestContext,
  planned: PlannedAnswer,
  signal: AbortSignal,
  release: () => void,
): AsyncGenerator<string> {
  const { envelope, specs, shape, includeUsage, continuousUsage } = planned;
  const tally = new Tally(planned.numPromptTokens, planned.numAnswers);
  const write = (members: object) =>
    JSON.stringify({ ...envelope, object: shape.object.chunk, ...members });
  const usage = () =>
    continuousUsage ? { usage: tally.usage() } : includeUsage ? { usage: null } : {};
  try {
    for await (const event of generate(context.model, specs, signal, context.watch)) {
      if (event.type === "finish") {
        const ending = tally.finish(event);
        for (const { choice, extra } of shape.finish(event)) {
          yield write({ ...extra, choices: [choice], ...usage(), ...ending });
        }
      } else {
        tally.add(event);
        for (const { choice, extra } of shape.delta(event)) {
          yield write({ ...extra, choices: [choice], ...usage() });
        }
      }
    }
    if (includeUsage) {
      yield write({ choices: [], usage: tally.usage(), timings: tally.timings(), ...tally.kv() });
    }
  } catch (thrown) {
    // The status is long sent; clients take an event with `error` in it as the failure it is. A
    // stream that just broke off would look complete to some of them.
    context.onError(thrown);
    yield JSON.stringify(asRequestError(thrown).body);
  } finally {
    release();
  }
  yield DONE;
}
