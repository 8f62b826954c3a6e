/** Decode steps as something that can be timed. @module */
import type { DecodeRow } from "../src/engine/runner_types.ts";
import { PLAIN, type Subject } from "./_subject.ts";
import type { Timed } from "./_timing.ts";

/** Steps that start over from the same state each time, with the times of each. */
export interface TimedDecode extends Timed {
  /** Wall time of the steps so far. */
  readonly stepMs: number[];
  /** Of that, JavaScript before the submission was out. */
  readonly hostMs: number[];
}

/**
 * Greedy decode steps of some sequences together, whose prompts are in their slots.
 *
 * @param rows Where each begins: the token after its prompt.
 * @param steps Steps of a run; room for them is reserved here.
 */
export function decodeTimed(
  { parts: { runner, kv } }: Subject,
  rows: readonly Pick<DecodeRow, "slot" | "position" | "token">[],
  steps: number,
): TimedDecode {
  for (const { slot, position } of rows) kv.reserve(slot, position + steps);
  const stepMs: number[] = [];
  const hostMs: number[] = [];
  return {
    repeats: steps,
    stepMs,
    hostMs,
    async run() {
      let current: DecodeRow[] = rows.map((row) => ({ ...row, sample: PLAIN }));
      for (let step = 0; step < steps; step++) {
        const began = performance.now();
        const sampled = await runner.decode(current);
        stepMs.push(performance.now() - began);
        hostMs.push(runner.steps.hostCost.encodeMs);
        current = current.map((row, index) => ({
          ...row,
          position: row.position + 1,
          token: sampled[index]!.token,
        }));
      }
    },
  };
}
