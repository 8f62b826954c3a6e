/** What takes a generated model too long for the suite: `deno task test:long`. */
import { checkLongSequence } from "./_long_sequence.ts";

Deno.test("16,384 tokens with 2 % of the sparse layers on the device equal all of them there", () =>
  checkLongSequence(16_384, { sinks: 32, window: 32, budget: 192 }));
