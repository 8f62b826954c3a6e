/** Answers under a policy, greedy, for an evaluation. @module */
import { CommandError } from "../cli/command.ts";
import type { KvRequest } from "../butler/settings_types.ts";
import { type Engine, GREEDY } from "../engine/types.ts";

let counter = 0;

/**
 * Ids of an answer, without the end token.
 *
 * @throws {CommandError} If the engine reports an error.
 */
export async function answerIds(
  engine: Engine,
  promptIds: readonly number[],
  maxTokens: number,
  endIds: ReadonlySet<number>,
  kv: KvRequest,
): Promise<number[]> {
  const ids: number[] = [];
  for await (
    const event of engine.generate({
      id: `eval-${++counter}`,
      promptIds,
      maxTokens,
      minTokens: 0,
      stopTokenIds: [...endIds],
      bannedTokenIds: [],
      sampling: GREEDY,
      logprobs: null,
      promptLogprobs: null,
      kv,
    })
  ) {
    if (event.type === "token" && !endIds.has(event.id)) ids.push(event.id);
    if (event.type === "error") throw new CommandError(event.error.message);
  }
  return ids;
}
