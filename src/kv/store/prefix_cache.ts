/** Prefix blocks by name: those in the tiers, and those in the folder that outlives the process. @module */
import type { Block } from "./block.ts";
import type { PrefixFolder } from "./prefix_folder.ts";
import type { Tiers } from "./tiers.ts";

/** A block that can be found. */
interface Entry {
  readonly block: Block;
  extras: Uint8Array | null;
  /** Its place in its prefix. */
  readonly depth: number;
}

/** Finds prefix blocks, and saves them. */
export class PrefixCache {
  readonly #folder: PrefixFolder | null;
  readonly #blockBytes: number;
  readonly #entries = new Map<string, Entry>();
  /** Keys of the entries that the folder lacks. */
  readonly #unsaved = new Set<string>();
  /** What was loaded is still needed while blocks that make way for it are saved: two buffers. */
  #loaded: Uint8Array | null = null;
  #saving: Uint8Array | null = null;

  constructor(folder: PrefixFolder | null, blockBytes: number) {
    this.#folder = folder;
    this.#blockBytes = blockBytes;
  }

  get numUnsaved(): number {
    return this.#unsaved.size;
  }

  has(key: string): boolean {
    return this.#entries.has(key) || (this.#folder?.has(key) ?? false);
  }

  /** Makes a full block findable. One of that name that is known already stays. */
  add(key: string, block: Block, depth: number, extras: Uint8Array | null): void {
    const known = this.#entries.get(key);
    if (known !== undefined) {
      if (extras === null || known.extras !== null) return;
      known.extras = extras.slice();
      if (this.#folder !== null) this.#unsaved.add(key);
      return;
    }
    block.key = key;
    this.#entries.set(key, { block, depth, extras: extras?.slice() ?? null });
    if (this.#folder === null) return;
    // A folder's block without extras is worth writing again with them.
    if (extras !== null || !this.#folder.has(key)) this.#unsaved.add(key);
  }

  /** A block of the tiers. */
  find(key: string): { readonly block: Block; readonly extras: Uint8Array | null } | null {
    return this.#entries.get(key) ?? null;
  }

  /** A block of the folder, into a buffer that is valid until the next call. */
  load(key: string): { readonly bytes: Uint8Array; readonly extras: Uint8Array | null } | null {
    if (this.#folder === null) return null;
    const bytes = this.#loaded ??= new Uint8Array(this.#blockBytes);
    const found = this.#folder.load(key, bytes);
    return found === null ? null : { bytes, extras: found.extras };
  }

  /** Notes a block that came from the folder. */
  addLoaded(key: string, block: Block, depth: number, extras: Uint8Array | null): void {
    block.key = key;
    this.#entries.set(key, { block, depth, extras });
  }

  /** Notes in the folder that blocks are used. */
  touch(keys: readonly string[]): void {
    keys.forEach((key, depth) => this.#folder?.touch(key, depth));
  }

  /** Saves at most `limit` blocks. @returns How many are left. */
  save(tiers: Tiers, limit: number): number {
    for (const key of this.#unsaved) {
      if (limit-- <= 0) break;
      this.#save(tiers, key, this.#entries.get(key)!);
    }
    return this.#unsaved.size;
  }

  /** Saves nothing of what is still to be saved. @returns How many blocks that are. */
  skip(): number {
    const { size } = this.#unsaved;
    this.#unsaved.clear();
    return size;
  }

  /** A block makes way: it is saved, if that is still to be done, and not found here any more. */
  evict(tiers: Tiers, block: Block): void {
    const key = block.key;
    if (key !== null && this.#unsaved.has(key)) this.#save(tiers, key, this.#entries.get(key)!);
    this.remove(block);
  }

  /** Forgets a block by its name, here and in the folder. @returns Whether it was there. */
  drop(tiers: Tiers, key: string): boolean {
    const wasSaved = this.#folder?.drop(key) ?? false;
    const block = this.#entries.get(key)?.block;
    if (block === undefined) return wasSaved;
    this.remove(block);
    if (block.owners === 0) tiers.free(block);
    return true;
  }

  /** A block is not found any more; it stays where its owners have it. */
  remove(block: Block): void {
    if (block.key === null) return;
    this.#entries.delete(block.key);
    this.#unsaved.delete(block.key);
    block.key = null;
  }

  /** @throws {Error} If an entry and its block do not agree. */
  checkInvariants(blocks: Iterable<Block>): void {
    const named = new Set<Block>();
    for (const block of blocks) if (block.key !== null) named.add(block);
    for (const [key, { block }] of this.#entries) {
      if (block.key !== key || !named.delete(block)) throw new Error(`prefix ${key} is lost`);
    }
    for (const key of this.#unsaved) {
      if (!this.#entries.has(key)) throw new Error(`prefix ${key} is to be saved and is not there`);
    }
    if (named.size > 0) throw new Error("a block has a name under which it is not found");
  }

  /** Tries once: what cannot be saved now is found while it stays in the tiers. */
  #save(tiers: Tiers, key: string, entry: Entry): void {
    this.#unsaved.delete(key);
    let bytes: Uint8Array;
    try {
      bytes = tiers.whole(
        entry.block,
        () => this.#saving ??= new Uint8Array(this.#blockBytes),
      );
    } catch {
      // Damaged on disk: whoever has it hears of it when he reads, and nobody else gets it.
      this.remove(entry.block);
      if (entry.block.owners === 0) tiers.free(entry.block);
      return;
    }
    this.#folder!.save(key, bytes, entry.extras, entry.depth);
  }
}
