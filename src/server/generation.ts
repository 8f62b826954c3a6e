/** Runs the sequences of a request on the engine and turns their tokens into text. @module */
import type { KvReport } from "../butler/settings.ts";
import type { Engine, RequestTimings, TokenLogprob } from "../engine/types.ts";
import type { RequestWatch, SequenceWatch } from "../observe/types.ts";
import type { Tokenizer } from "../tokenizer/types.ts";
import { engineFailure, shuttingDown } from "./errors.ts";
import { merge } from "./merge.ts";
import type { SequenceSpec } from "./plan.ts";
import type { ServedModel } from "./served_model.ts";
import { type PlacedToken, type TextPiece, TokenText } from "./token_text.ts";

/** A piece of a choice. */
export interface DeltaEvent {
  readonly type: "delta";
  readonly index: number;
  readonly text: string;
  /** Tokens behind the text; empty where log-probabilities were not asked for. */
  readonly tokens: readonly PlacedToken[];
  /** Ids of the answer since the last piece; empty where they were not asked for. */
  readonly ids: readonly number[];
  /** Tokens of the answer so far. */
  readonly numTokens: number;
}

/** The end of a choice. */
export interface FinishEvent {
  readonly type: "finish";
  readonly index: number;
  readonly reason: "stop" | "length";
  readonly numTokens: number;
  readonly timings: RequestTimings;
  readonly kv: KvReport | null;
}

/** How far the prompt of a choice is, in tokens. */
export interface ProgressEvent {
  readonly type: "progress";
  readonly index: number;
  readonly total: number;
  /** Of these, rows were found. */
  readonly cached: number;
  /** The cached ones among them. */
  readonly processed: number;
  /** Since the sequence began to run. */
  readonly ms: number;
}

/** What happens to the choices of a request, in order for each of them. */
export type GenerationEvent = DeltaEvent | FinishEvent | ProgressEvent;

/** Gathers what one sequence has to say until there is something to send. */
class Choice {
  readonly text: TokenText;
  numTokens = 0;
  #ids: number[] = [];

  constructor(private readonly spec: SequenceSpec, tokenizer: Tokenizer | undefined) {
    this.text = new TokenText(tokenizer, {
      stopStrings: spec.stopStrings,
      skipSpecial: spec.skipSpecial,
      minTokens: spec.request.minTokens,
    });
  }

  took(id: number): void {
    this.numTokens++;
    if (this.spec.reportIds) this.#ids.push(id);
  }

  *send(piece: TextPiece): Generator<DeltaEvent> {
    const asked = this.spec.request.logprobs !== null;
    const tokens = asked ? piece.tokens : [];
    const ids = this.#ids;
    if (piece.text === "" && tokens.length === 0 && ids.length === 0) return;
    this.#ids = [];
    const { numTokens, spec: { index } } = this;
    yield { type: "delta", index, text: piece.text, tokens, ids, numTokens };
  }

  finish(
    reason: FinishEvent["reason"],
    { timings, kv }: Pick<FinishEvent, "timings" | "kv">,
  ): FinishEvent {
    const { numTokens, spec: { index } } = this;
    return { type: "finish", index, reason, numTokens, timings, kv };
  }
}

async function* runSequence(
  engine: Engine,
  tokenizer: Tokenizer | undefined,
  spec: SequenceSpec,
  watch: SequenceWatch | undefined,
  onEnd: () => void,
): AsyncGenerator<GenerationEvent> {
  const { request } = spec;
  const choice = new Choice(spec, tokenizer);
  const { text } = choice;
  const stopIds = new Set(request.stopTokenIds);
  let inAnswer = false;
  const echoed = (ids: readonly number[], start: number, logprobs: (TokenLogprob | null)[]) =>
    choice.send(text.echo(ids, logprobs, Math.max(0, (spec.echo?.numAdded ?? 0) - start)));
  const startAnswer = function* () {
    if (inAnswer) return;
    inAnswer = true;
    yield* choice.send(text.startAnswer(request.promptIds));
  };

  try {
    // With log-probabilities the prompt goes out in the pieces in which they come.
    if (spec.echo !== null && request.promptLogprobs === null) {
      yield* echoed(request.promptIds, 0, []);
    }
    for await (const event of engine.generate(request)) {
      watch?.event(event);
      switch (event.type) {
        case "prefill":
          if (spec.reportProgress) yield { ...event, type: "progress", index: spec.index };
          break;
        case "prompt_logprobs": {
          if (spec.echo === null) break;
          const { start, entries } = event;
          const ids = request.promptIds.slice(start, start + entries.length);
          yield* echoed(ids, start, [...entries]);
          break;
        }
        case "token":
          // The engine may be a step ahead of a stop string that ended the text.
          if (text.stopped) break;
          yield* startAnswer();
          choice.took(event.id);
          yield* choice.send(
            stopIds.has(event.id) ? { text: "", tokens: [] } : text.push(event.id, event.logprob),
          );
          if (text.stopped) engine.cancel(request.id);
          break;
        case "done": {
          // Cancelled without a stop string: by the client, who is gone, or by an engine that ends.
          if (event.reason === "cancelled" && !text.stopped) throw shuttingDown();
          yield* startAnswer();
          yield* choice.send(text.end());
          const stopped = text.stopped || event.reason === "stop";
          const reason = stopped ? "stop" : "length";
          watch?.end(reason);
          yield choice.finish(reason, event);
          return;
        }
        case "error":
          throw engineFailure(event.error);
        default:
          event satisfies never;
      }
    }
    throw new Error("the engine ended a sequence without saying why");
  } finally {
    watch?.end("abort");
    onEnd();
  }
}

/**
 * Runs all sequences of a request at once. When one fails, when the reader leaves or when `signal`
 * fires, the others are cancelled, whatever state they are in.
 *
 * @param watch Told of all that happens.
 * @throws {RequestError} For what the engine reports, or the reason of the signal.
 */
export async function* generate(
  model: ServedModel,
  specs: readonly SequenceSpec[],
  signal: AbortSignal,
  watch?: RequestWatch,
): AsyncGenerator<GenerationEvent> {
  const { engine, tokenizer } = model;
  const live = new Set(specs.map((spec) => spec.request.id));
  const cancelLive = () => {
    for (const id of live) engine.cancel(id);
  };
  signal.throwIfAborted();
  signal.addEventListener("abort", cancelLive);
  try {
    yield* merge(
      specs.map((spec) => {
        const { id } = spec.request;
        return runSequence(
          engine,
          tokenizer,
          spec,
          watch?.sequence(spec.request),
          () => live.delete(id),
        );
      }),
      signal,
    );
  } catch (thrown) {
    signal.throwIfAborted();
    throw thrown;
  } finally {
    signal.removeEventListener("abort", cancelLive);
    cancelLive();
  }
}
