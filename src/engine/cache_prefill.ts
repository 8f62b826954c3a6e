/** What prefill does beside writing rows: what policies keep of them, and chunks below the device. @module */
import type { CacheParts } from "./cache_parts.ts";
import type { ObserveKeys, StagedChunk } from "./offload/staged_prefill.ts";
import type { Submission } from "./submission.ts";

/** Prefill of sequences that do not simply attend to everything. */
export class CachePrefill {
  readonly #parts: CacheParts;

  constructor(parts: CacheParts) {
    this.#parts = parts;
  }

  /** Before a prefill chunk: whether its rows need something written beside them. */
  prepare(slot: number, first: number, count: number, total: number): boolean {
    return this.#parts.selector.prefill.prepare(slot, first, count, total);
  }

  /** Rows whose importance is written in this step, by scorer. */
  get storeCounts(): readonly number[] {
    return this.#parts.selector.resources.tables.storeCounts;
  }

  /** After a chunk's rows were written in a layer. */
  encode(submission: Submission, slot: number, layer: number): void {
    this.#parts.selector.prefill.encode(submission.pass, slot, layer, "cache");
  }

  /** Writes what is kept of rows first .. first + count - 1, which are in the tiers, in a layer. */
  encodeAdopted(
    submission: Submission,
    slot: number,
    layer: number,
    first: number,
    count: number,
  ): void {
    const rows = this.#parts.options.cache.offloaded(slot);
    if (rows === null) return this.encode(submission, slot, layer);
    const chunk = { slot, rows, start: first, count, tails: [] };
    this.#parts.offload!.prefill.loadKeys(submission, layer, chunk);
    this.#parts.selector.prefill.encode(submission.pass, slot, layer, "chunk");
  }

  /**
   * Attention of a chunk in a layer where what it attends to is counted.
   *
   * @returns Whether it is one; nothing was done otherwise.
   */
  encodeObserved(submission: Submission, slot: number, layer: number, numRows: number): boolean {
    if (!this.#parts.selector.prefill.observes(slot, layer)) return false;
    this.#parts.observed!.encode(submission.pass, layer, numRows);
    this.#parts.selector.prefill.encodeObserved(submission.pass, slot, layer);
    return true;
  }

  /** A chunk of a sequence below the device; null for any other. */
  beginChunk(slot: number, start: number, count: number): StagedChunk | null {
    const rows = this.#parts.options.cache.offloaded(slot);
    return rows === null ? null : this.#parts.offload!.beginChunk(slot, rows, start, count);
  }

  /**
   * Rotation and attention of such a chunk in a layer.
   *
   * @param stores Whether something is written beside its rows.
   */
  async encodeChunk(
    submission: Submission,
    layer: number,
    chunk: StagedChunk,
    stores: boolean,
  ): Promise<void> {
    const { slot } = chunk;
    const store = ({ pass }: Submission) => {
      if (stores) this.#parts.selector.prefill.encode(pass, slot, layer, "chunk");
    };
    const observe: ObserveKeys = ({ pass }, keys) =>
      this.#parts.selector.prefill.observeKeys(pass, slot, layer, keys);
    const observes = stores && this.#parts.selector.prefill.observes(slot, layer);
    const { prefill } = this.#parts.offload!;
    await prefill.encodeLayer(submission, layer, chunk, store, observes ? observe : null);
  }

  /** After a layer of such a chunk. */
  async finishLayer(submission: Submission, layer: number, chunk: StagedChunk): Promise<void> {
    await this.#parts.offload!.prefill.finishLayer(submission, layer, chunk);
  }

  /** After all layers of such a chunk: its whole blocks are below the device. */
  async finishChunk(submission: Submission): Promise<void> {
    await this.#parts.offload!.prefill.finish(submission);
  }
}
