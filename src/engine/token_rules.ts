/** Chooses what changes the logits of a request before sampling. @module */
import type { LogitAdjustment } from "./runner_types.ts";
import type { TokenRules } from "./sequence.ts";
import type { GenerateRequest } from "./types.ts";

/** Rules of a request that was checked. */
export function createTokenRules(request: GenerateRequest): TokenRules {
  const banned = request.bannedTokenIds.map(ban);
  const early = [...banned, ...request.stopTokenIds.map(ban)];
  let numTokens = 0;
  return {
    push: () => void numTokens++,
    adjustments: () => numTokens < request.minTokens ? early : banned,
  };
}

function ban(id: number): LogitAdjustment {
  return { id, scale: 1, add: -Infinity };
}
