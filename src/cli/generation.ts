/** Runs one sequence and gives its text as it comes. @module */
import type { KvReport, KvRequest } from "../butler/settings.ts";
import type {
  EngineErrorData,
  FinishReason,
  RequestTimings,
  SamplingParams,
} from "../engine/types.ts";
import { endIdsOf } from "../server/served_model.ts";
import { TokenText } from "../server/token_text.ts";
import { CommandError, MisfitError } from "./command.ts";
import type { Session } from "./session.ts";

/** What is to be written. */
export interface GenerationSpec {
  readonly promptIds: readonly number[];
  readonly maxTokens: number;
  readonly sampling: SamplingParams;
  readonly stop: readonly string[];
  readonly ignoreEos: boolean;
  /** Settings of the KV cache; what it does not say, the engine's options do. */
  readonly kv?: KvRequest;
}

/** Who wants to hear of it. */
export interface GenerationListener {
  /** Text that is final; never half a character, never part of a stop string. */
  onText?(text: string): void;
  onToken?(id: number): void;
  onPrefill?(processed: number, total: number): void;
  /** Ends the sequence; the result then says `cancelled`. */
  readonly signal?: AbortSignal;
}

/** What was written. */
export interface GenerationResult {
  /** With the end token that stopped it. */
  readonly ids: readonly number[];
  /** Null for a model without a tokenizer. */
  readonly text: string | null;
  readonly finishReason: FinishReason;
  readonly timings: RequestTimings;
  readonly kv: KvReport | null;
}

let counter = 0;

/** The error of a command whose sequence failed. */
export function engineFailure({ code, message, lasting }: EngineErrorData): CommandError {
  const isMisfit = code === "invalid_request" || lasting === true;
  return isMisfit ? new MisfitError(message) : new CommandError(message);
}

/**
 * Runs a sequence to its end.
 *
 * @throws {CommandError} If the engine reports an error, or for stop strings without a tokenizer.
 */
export async function runGeneration(
  session: Session,
  spec: GenerationSpec,
  listener: GenerationListener = {},
): Promise<GenerationResult> {
  const { engine, tokenizer } = session;
  if (tokenizer === undefined && spec.stop.length > 0) {
    throw new MisfitError("this model has no tokenizer: --stop has no text to look for");
  }
  const ends = endIdsOf(session);
  const endIds = spec.ignoreEos ? new Set<number>() : ends;
  const bannedIds = spec.ignoreEos ? ends : [];
  const id = `cli-${++counter}`;
  const output = new TokenText(tokenizer, {
    stopStrings: spec.stop,
    skipSpecial: true,
    minTokens: 0,
  });
  output.startAnswer(spec.promptIds);
  const ids: number[] = [];
  let text = "";
  const emit = (piece: string) => {
    if (piece === "") return;
    text += piece;
    listener.onText?.(piece);
  };
  const cancel = () => engine.cancel(id);
  listener.signal?.addEventListener("abort", cancel);
  try {
    for await (
      const event of engine.generate({
        id,
        promptIds: spec.promptIds,
        maxTokens: spec.maxTokens,
        minTokens: 0,
        stopTokenIds: [...endIds],
        bannedTokenIds: [...bannedIds],
        sampling: spec.sampling,
        logprobs: null,
        promptLogprobs: null,
        ...(spec.kv === undefined ? {} : { kv: spec.kv }),
      })
    ) {
      if (event.type === "prefill") listener.onPrefill?.(event.processed, event.total);
      if (event.type === "error") throw engineFailure(event.error);
      if (event.type === "token" && !output.stopped) {
        ids.push(event.id);
        listener.onToken?.(event.id);
        if (!endIds.has(event.id)) emit(output.push(event.id, null).text);
        // The loop goes on to `done`, which has the timings.
        if (output.stopped) cancel();
      }
      if (event.type === "done") {
        if (!output.stopped) emit(output.end().text);
        return {
          ids,
          text: tokenizer === undefined ? null : text,
          finishReason: output.stopped ? "stop" : event.reason,
          timings: event.timings,
          kv: event.kv,
        };
      }
    }
    throw new CommandError("the engine ended without an answer");
  } finally {
    listener.signal?.removeEventListener("abort", cancel);
  }
}

/** Timings under the names that the HTTP API uses. */
export { timingsBody } from "../server/wire.ts";
