/** Conversations between the store's prefix blocks and slot files. @module */
import { SlotError } from "./errors.ts";
import type { Conversation, SlotFolder } from "./slot_folder.ts";
import { BLOCK_ROWS, type KvStore } from "./types.ts";

/** What was saved or restored. */
export interface ConversationMoved {
  readonly conversation: Conversation;
  readonly bytes: number;
}

/** Saves the rows of conversations under names, and brings them back. */
export class Conversations {
  readonly #store: KvStore;
  readonly #folder: SlotFolder | null;

  /** @param folder Null: nothing can be saved. */
  constructor(store: KvStore, folder: SlotFolder | null) {
    this.#store = store;
    this.#folder = folder;
  }

  /**
   * Saves as much of a conversation as the store still has. A turn writes a block.
   *
   * @throws {SlotError} If there is nothing of it, or it cannot be written.
   */
  *save(name: string, { ids, salt }: Conversation): Generator<void, ConversationMoved> {
    const folder = this.#needFolder();
    using stored = this.#store.adoptPrefix(this.#store.prefixKeys(ids, salt));
    if (stored.numBlocks === 0) {
      throw new SlotError("slot_empty", "its rows are not there any more: others needed the room");
    }
    const conversation = { ids: ids.subarray(0, stored.numBlocks * BLOCK_ROWS), salt };
    const bytes = yield* folder.save(name, conversation, stored);
    return { conversation, bytes };
  }

  /**
   * Brings a conversation back: a prompt that begins like it finds its rows. A turn reads a block,
   * and only once all of it was read and was right can anybody find any of it.
   *
   * @throws {SlotError} If the file cannot be used.
   * @throws {StoreFullError} If there is no room for it.
   */
  *restore(name: string, maxTokens: number): Generator<void, ConversationMoved> {
    const folder = this.#needFolder();
    using stored = this.#store.open();
    const moved = yield* folder.restore(name, maxTokens, stored);
    const { ids, salt } = moved.conversation;
    this.#store.prefixKeys(ids, salt).forEach((key, index) =>
      this.#store.offerPrefix(key, stored, index)
    );
    return moved;
  }

  /**
   * Forgets the rows of a conversation, but for those at its beginning that others share.
   *
   * @returns Tokens whose rows are forgotten.
   */
  erase(erased: Conversation, others: readonly Conversation[]): number {
    const kept = new Set(others.flatMap(({ ids, salt }) => this.#store.prefixKeys(ids, salt)));
    const keys = this.#store.prefixKeys(erased.ids, erased.salt).filter((key) => !kept.has(key));
    return this.#store.dropPrefix(keys) * BLOCK_ROWS;
  }

  #needFolder(): SlotFolder {
    if (this.#folder !== null) return this.#folder;
    throw new SlotError(
      "slot_folder_missing",
      "this server keeps no slot files: start it with --slot-dir",
    );
  }
}
