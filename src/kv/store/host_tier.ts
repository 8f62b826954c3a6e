/** Host memory for blocks: buffers under a cap, used again and again. @module */
import type { HostBuffer } from "./block.ts";

/**
 * Buffers of one block each. Freed ones are kept: the runtime gives memory back when it collects
 * garbage, which may be long after, and the cap would be passed meanwhile.
 */
export class HostTier {
  readonly #blockBytes: number;
  readonly #most: number;
  readonly #allocate: (bytes: number) => ArrayBuffer;
  readonly #free: HostBuffer[] = [];
  #used = 0;
  #refused = false;

  constructor(blockBytes: number, hostBytes: number, allocate: (bytes: number) => ArrayBuffer) {
    this.#blockBytes = blockBytes;
    this.#most = Math.max(0, Math.floor(hostBytes / blockBytes));
    this.#allocate = allocate;
  }

  /** Blocks in use. */
  get used(): number {
    return this.#used;
  }

  /** Blocks that may be in use: what the cap allows, or what the system gave before it refused. */
  get capacity(): number {
    return this.#refused ? this.#used + this.#free.length : this.#most;
  }

  /** A buffer with unspecified content; null if there is no room. */
  take(): HostBuffer | null {
    if (this.#used >= this.capacity) return null;
    const buffer = this.#free.pop() ?? this.#make();
    if (buffer !== null) this.#used++;
    return buffer;
  }

  give(buffer: HostBuffer): void {
    this.#used--;
    this.#free.push(buffer);
  }

  /** Believes again that the system has memory, since some was given back. */
  retry(): void {
    this.#refused = false;
  }

  clear(): void {
    this.#free.length = 0;
  }

  #make(): HostBuffer | null {
    try {
      const buffer = this.#allocate(this.#blockBytes);
      return { bytes: new Uint8Array(buffer), words: new Uint32Array(buffer) };
    } catch {
      this.#refused = true;
      return null;
    }
  }
}
