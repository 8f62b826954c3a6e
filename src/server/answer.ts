/** Answers a planned request, whole or as a stream. @module */
import type { Admission } from "./admission/admission.ts";
import type { RequestLimits } from "./admission/limits.ts";
import { answerTooSlow } from "./admission/refusals.ts";
import type { BodyLimits } from "./body.ts";
import type { RequestWatch } from "../observe/types.ts";
import { asRequestError, clientGone, clientStalled } from "./errors.ts";
import { type DeltaEvent, type FinishEvent, generate, type ProgressEvent } from "./generation.ts";
import type { ChatChunk, CompletionChunk } from "./openapi/answers.ts";
import { paceOf, type StreamPace } from "./pace.ts";
import type { SequenceSpec } from "./plan.ts";
import type { ServedModel } from "./served_model.ts";
import { DONE, eventStream, STREAM_HEADERS } from "./sse.ts";
import type { PlacedToken } from "./token_text.ts";
import { jsonAnswer } from "./whole_body.ts";
import { type Envelope, Tally } from "./wire.ts";

/** What a route has at hand for one request. */
export interface RequestContext {
  readonly request: Request;
  /** When it came in, on the clock of `performance.now()`. */
  readonly cameMs: number;
  readonly model: ServedModel;
  readonly servedName: string;
  /** Pace of streams whose requests do not name one. */
  readonly pace: StreamPace;
  readonly limits: RequestLimits;
  readonly bodyLimits: BodyLimits;
  readonly admission: Admission;
  /** Prompts share cached rows only with those of the same scope; undefined: with all. */
  readonly cacheScope: string | undefined;
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

type AnyChunk = ChatChunk | CompletionChunk;
/** Members that chunks have beside `choices`. */
type ChunkExtra =
  & Partial<
    Pick<AnyChunk, "prompt_progress" | "usage" | "timings" | "kv" | "truncated_prompt_tokens">
  >
  & Partial<Pick<ChatChunk, "prompt_token_ids">>;

/** One chunk of a stream: its choice, and members of its own beside `choices`. */
export interface Chunk<C extends AnyChunk = AnyChunk> {
  readonly choice: C["choices"][number];
  readonly extra?: ChunkExtra;
}

/** How one route writes what was generated. */
export interface AnswerShape<C extends AnyChunk = AnyChunk> {
  /** `object` of the whole answer and of a chunk. */
  readonly object: { readonly whole: string; readonly chunk: C["object"] };
  whole(choice: WholeChoice): object;
  /** Members of the whole answer beside `choices`. */
  wholeExtra(): object;
  delta(event: DeltaEvent): Iterable<Chunk<C>>;
  finish(event: FinishEvent): Iterable<Chunk<C>>;
  progress(event: ProgressEvent): Iterable<Chunk<C>>;
}

/** A request that is ready to run. */
export interface PlannedAnswer {
  readonly envelope: Envelope;
  readonly specs: readonly SequenceSpec[];
  /** Tokens of all prompts, each counted once. */
  readonly numPromptTokens: number;
  /** Choices of each prompt. */
  readonly numAnswers: number;
  /** Tokens that were left out of each prompt; null: none were to be. */
  readonly truncated: readonly number[] | null;
  readonly shape: AnswerShape;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
  /** Seconds between the comments of a silent stream; 0 and less: none. */
  readonly pingSeconds: number | undefined;
}

/**
 * Takes on the sequences of an answer. Its signal fires when its client goes away, when its time is
 * over, or when the server ends.
 *
 * @throws {RequestError} If the queue is full.
 */
function answerSignal(context: RequestContext, { specs, numAnswers }: PlannedAnswer) {
  const { request, cameMs, stopping, watch, admission, model } = context;
  const { requestTimeoutMs } = context.limits;
  const leave = admission.admit(specs.length, model.engine.info.maxSequences, numAnswers);
  const controller = new AbortController();
  const abort = (reason: Error) => controller.abort(reason);
  const timer = requestTimeoutMs === null ? undefined : setTimeout(
    () => abort(answerTooSlow(requestTimeoutMs)),
    // Receiving, rendering and tokenizing have taken their part of it.
    Math.max(0, cameMs + requestTimeoutMs - performance.now()),
  );
  const gone = () => abort(clientGone());
  const stop = () => controller.abort(stopping.reason);
  // Not AbortSignal.any(): nothing of an answer may stay attached to the signal of the server.
  request.signal.addEventListener("abort", gone);
  stopping.addEventListener("abort", stop);
  if (request.signal.aborted) gone();
  if (stopping.aborted) stop();
  const release = () => {
    clearTimeout(timer);
    leave();
    request.signal.removeEventListener("abort", gone);
    stopping.removeEventListener("abort", stop);
    watch?.finished();
  };
  return { signal: controller.signal, abort, release };
}

/**
 * Runs the request; the response of a stream comes back before anything is computed.
 *
 * @throws {RequestError} If the queue is full, or for what goes wrong before a stream begins.
 */
export async function answer(context: RequestContext, planned: PlannedAnswer): Promise<Response> {
  return planned.stream ? streamed(context, planned) : await whole(context, planned);
}

async function whole(context: RequestContext, planned: PlannedAnswer): Promise<Response> {
  const { specs, shape, envelope } = planned;
  const tally = new Tally(planned);
  const parts = specs.map(() => ({
    text: [] as string[],
    tokens: [] as PlacedToken[],
    ids: [] as number[],
    reason: "length" as FinishEvent["reason"],
  }));
  const { signal, release } = answerSignal(context, planned);
  try {
    for await (const event of generate(context.model, specs, signal, context.watch)) {
      const part = parts[event.index];
      if (part === undefined) throw new RangeError(`no choice ${event.index}`);
      if (event.type === "progress") continue;
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
  const body = {
    ...envelope,
    object: shape.object.whole,
    ...shape.wholeExtra(),
    choices: parts.map((part, index) => shape.whole({ index, ...part, text: part.text.join("") })),
    usage: tally.usage(),
    timings: tally.timings(),
    ...tally.kv(),
    ...tally.truncated(),
  };
  return jsonAnswer(body);
}

function streamed(context: RequestContext, planned: PlannedAnswer): Response {
  const { signal, abort, release } = answerSignal(context, planned);
  const messages = streamMessages(context, planned, signal, release);
  const { engine } = context.model;
  const body = eventStream(messages, {
    onSlow(isSlow) {
      // Its tokens would only pile up here, and others can use the room.
      for (const { request } of planned.specs) engine.hold(request.id, isSlow);
    },
    onCancel() {
      release();
      abort(clientGone());
    },
    onStalled() {
      const error = clientStalled();
      context.watch?.failed(error.body.error.code);
      release();
      abort(error);
      context.onError(error);
      return [JSON.stringify(error.body), DONE];
    },
  }, paceOf(context.pace, planned.pingSeconds));
  return new Response(body, { headers: STREAM_HEADERS });
}

async function* streamMessages(
  context: RequestContext,
  planned: PlannedAnswer,
  signal: AbortSignal,
  release: () => void,
): AsyncGenerator<string> {
  const { envelope, specs, shape, includeUsage, continuousUsage } = planned;
  const tally = new Tally(planned);
  const write = (members: ChunkExtra & { readonly choices: readonly Chunk["choice"][] }) =>
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
      } else if (event.type === "progress") {
        for (const { choice, extra } of shape.progress(event)) {
          yield write({ ...extra, choices: [choice], ...usage() });
        }
      } else {
        tally.add(event);
        for (const { choice, extra } of shape.delta(event)) {
          yield write({ ...extra, choices: [choice], ...usage() });
        }
      }
    }
    if (includeUsage) {
      const whole = { usage: tally.usage(), timings: tally.timings() };
      yield write({ choices: [], ...whole, ...tally.kv(), ...tally.truncated() });
    }
  } catch (thrown) {
    // The status is long sent; clients take an event with `error` in it as the failure it is. A
    // stream that just broke off would look complete to some of them.
    context.onError(thrown);
    const error = asRequestError(thrown);
    // Who has left is told nothing.
    if (error.status !== 499) context.watch?.failed(error.body.error.code);
    yield JSON.stringify(error.body);
  } finally {
    release();
  }
  yield DONE;
}
