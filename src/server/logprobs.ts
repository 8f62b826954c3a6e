/** Log-probabilities in the two forms of the OpenAI API. @module */
import type { Tokenizer } from "../tokenizer/types.ts";
import type { PlacedToken } from "./token_text.ts";
import { finiteLogprob, tokenBytes, tokenText } from "./wire.ts";

/** The form of `/v1/completions`. `text_offset` counts code points, as the API's own does. */
export function completionLogprobs(
  tokenizer: Tokenizer | undefined,
  tokens: readonly PlacedToken[],
) {
  const text = (id: number) => tokenText(tokenizer, id);
  return {
    tokens: tokens.map((token) => text(token.id)),
    token_logprobs: tokens.map(({ logprob }) => logprob && finiteLogprob(logprob.logprob)),
    top_logprobs: tokens.map(({ logprob }) => {
      if (logprob === null) return null;
      const top = new Map<string, number>();
      // The chosen token is always among them. Of two tokens with one text the likelier counts.
      for (const entry of [logprob, ...logprob.top]) {
        const name = text(entry.id);
        top.set(name, Math.max(top.get(name) ?? -Infinity, finiteLogprob(entry.logprob)));
      }
      return Object.fromEntries(top);
    }),
    text_offset: tokens.map((token) => token.offset),
  };
}

/** The form of `/v1/chat/completions`. */
export function chatLogprobs(tokenizer: Tokenizer | undefined, tokens: readonly PlacedToken[]) {
  const entry = ({ id, logprob }: { id: number; logprob: number }) => ({
    token: tokenText(tokenizer, id),
    logprob: finiteLogprob(logprob),
    bytes: tokenizer === undefined ? null : [...tokenBytes(tokenizer, id)],
  });
  return {
    content: tokens.flatMap(({ logprob }) =>
      logprob === null ? [] : [{ ...entry(logprob), top_logprobs: logprob.top.map(entry) }]
    ),
    refusal: null,
  };
}
