/** Puts together what an engine says of its load. @module */
import type { KvCache } from "../kv/types.ts";
import type { Scheduler } from "./scheduler.ts";
import type { Sequence } from "./sequence.ts";
import type { SlotConversations } from "./slot_conversations.ts";
import type { StepRunner } from "./step_runner.ts";
import type { EngineStats, RunningSlot } from "./types.ts";

/** What lies where. */
export type TierLoads = Pick<EngineStats, "tiers" | "cachedBlocks">;

const NOTHING = { bytes: 0, capacityBytes: 0 };
const NO_TIERS: TierLoads = {
  tiers: { device: NOTHING, host: NOTHING, disk: NOTHING },
  cachedBlocks: 0,
};

/** The load of an engine now. */
export function loadOf({ kv, scheduler, steps, conversations, tierLoads }: {
  readonly kv: KvCache;
  readonly scheduler: Scheduler;
  readonly steps: StepRunner;
  readonly conversations: SlotConversations;
  /** Undefined: nothing is known but the pages of the cache. */
  readonly tierLoads: (() => TierLoads) | undefined;
}): EngineStats {
  const { pagesInUse, numPages } = kv.usage;
  return {
    runningSequences: scheduler.numRunning,
    waitingSequences: scheduler.numWaiting,
    pagesInUse,
    numPages,
    decodeSteps: steps.decodeSteps,
    decodedRows: steps.decodedRows,
    stepSizes: steps.counts.stepSizes.now(),
    parkedSequences: scheduler.numParked,
    preemptions: steps.preemptions,
    totals: steps.totals,
    ...tierLoads?.() ?? NO_TIERS,
    slots: scheduler.slots.map((sequence, slot) => ({
      running: sequence && runningSlot(sequence),
      kept: conversations.kept(slot),
    })),
  };
}

function runningSlot(sequence: Sequence): RunningSlot {
  const { request, numPrompt, numPrefilled, numGenerated, kv: { policy } } = sequence;
  const { id, maxTokens, sampling } = request;
  return { id, numPrompt, numPrefilled, numGenerated, maxTokens, policy, sampling };
}
