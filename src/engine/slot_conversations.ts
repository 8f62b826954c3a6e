/**
 * Whose rows a slot had last, and what is done with them: saving, restoring, erasing. A slot is empty
 * between two sequences; its conversation is what the last one left in the prefix cache.
 *
 * Files take long. What is to be done is cut into turns of one block, which the engine takes between
 * its steps, so that those who run hardly notice.
 *
 * @module
 */
import type { ConversationMoved, Conversations } from "../kv/store/conversations.ts";
import { SlotError, StoreFullError, StoreReadError } from "../kv/store/errors.ts";
import type { Conversation } from "../kv/store/slot_folder.ts";
import { BLOCK_ROWS } from "../kv/store/types.ts";
import type { Sequence } from "./sequence.ts";
import type { SlotReply, SlotRequest } from "./types.ts";

/** Orders that may wait: each is a whole file, and those who gave them may be long gone. */
const MAX_ORDERS = 64;

/** The conversation of a slot. */
interface Kept extends Conversation {
  /** Request that it comes from. */
  readonly id: string;
}

interface Task {
  readonly turns: Generator<void, SlotReply>;
  readonly reply: PromiseWithResolvers<SlotReply>;
}

/** Conversations of slots. */
export class SlotConversations {
  readonly #store: Conversations | null;
  readonly #maxTokens: number;
  readonly #kept: (Kept | null)[];
  #tasks: Task[] = [];

  /**
   * @param store Null: no rows are kept after their sequence, so there is nothing to be saved.
   * @param maxTokens Tokens of a sequence.
   */
  constructor(store: Conversations | null, numSlots: number, maxTokens: number) {
    this.#store = store;
    this.#maxTokens = maxTokens;
    this.#kept = new Array<Kept | null>(numSlots).fill(null);
  }

  /** Whether something is still to be done. */
  get isBusy(): boolean {
    return this.#tasks.length > 0;
  }

  /** What a slot has: request and tokens; null for none. */
  kept(slot: number): { readonly id: string; readonly numTokens: number } | null {
    const kept = this.#kept[slot] ?? null;
    return kept && { id: kept.id, numTokens: kept.ids.length };
  }

  /** A sequence leaves its slot for good. */
  leaves(sequence: Sequence): void {
    const { slot, request, numShareable } = sequence;
    if (slot === null || this.#store === null) return;
    const count = request.cachePrompt === false ? 0 : numShareable - numShareable % BLOCK_ROWS;
    this.#kept[slot] = count === 0 ? null : {
      id: request.id,
      ids: Uint32Array.from(sequence.firstTokens(count)),
      salt: request.cacheSalt ?? "",
    };
  }

  /** Takes an order; it is done in {@linkcode turn}s. Rejects when too many wait. */
  order(request: SlotRequest, isTaken: (slot: number) => boolean): Promise<SlotReply> {
    if (this.#tasks.length >= MAX_ORDERS) {
      const why = `${MAX_ORDERS} slots wait to be saved, restored or erased`;
      return Promise.reject(new SlotError("slot_busy", why));
    }
    const reply = Promise.withResolvers<SlotReply>();
    this.#tasks.push({ turns: this.#run(request, isTaken), reply });
    return reply.promise;
  }

  /** Goes on with the oldest order by one block. */
  turn(): void {
    const [task] = this.#tasks;
    if (task === undefined) return;
    try {
      const { done, value } = task.turns.next();
      if (!done) return;
      task.reply.resolve(value);
    } catch (error) {
      task.reply.reject(asSlotError(error));
    }
    this.#tasks.shift();
  }

  /** Nothing is done any more. */
  giveUp(error: Error): void {
    for (const { turns, reply } of this.#tasks.splice(0)) {
      turns.return({ numTokens: 0, bytes: 0, ms: 0 });
      reply.reject(error);
    }
  }

  *#run(request: SlotRequest, isTaken: (slot: number) => boolean): Generator<void, SlotReply> {
    const began = performance.now();
    const { slot, action } = request;
    if (!Number.isInteger(slot) || slot < 0 || slot >= this.#kept.length) {
      throw new SlotError("slot_unknown", `there are slots 0 to ${this.#kept.length - 1}`);
    }
    if (this.#store === null) {
      throw new SlotError("slot_empty", "this server keeps no rows of prompts (--no-prefix-cache)");
    }
    if (isTaken(slot)) throw new SlotError("slot_busy", `slot ${slot} has a running sequence`);
    const moved = (result: ConversationMoved): SlotReply => ({
      numTokens: result.conversation.ids.length,
      bytes: result.bytes,
      ms: performance.now() - began,
    });
    if (action === "restore") {
      const result = yield* this.#store.restore(request.filename, this.#maxTokens);
      // Whoever got the slot meanwhile has the later conversation.
      if (!isTaken(slot)) this.#kept[slot] = { id: request.filename, ...result.conversation };
      return moved(result);
    }
    const kept = this.#kept[slot];
    if (action === "save") {
      if (!kept) throw new SlotError("slot_empty", `slot ${slot} has no conversation yet`);
      return moved(yield* this.#store.save(request.filename, kept));
    }
    this.#kept[slot] = null;
    const others = this.#kept.filter((other) => other !== null);
    const numTokens = kept ? this.#store.erase(kept, others) : 0;
    return { numTokens, bytes: 0, ms: performance.now() - began };
  }
}

function asSlotError(error: unknown): unknown {
  if (error instanceof StoreFullError) {
    return new SlotError("slot_no_room", error.message, error);
  }
  if (error instanceof StoreReadError) {
    return new SlotError("slot_empty", "its rows cannot be read back", error);
  }
  return error;
}
