/** A sequence far longer than its part of the device; `long_sequence_long.ts` has a longer one. */
import { checkLongSequence } from "./_long_sequence.ts";

Deno.test("4,096 tokens with 2 % of the sparse layers on the device equal all of them there", () =>
  checkLongSequence(4096, { sinks: 32, window: 32, budget: 192 }));
