/** A block of token positions: what is known of it, wherever its bytes lie. @module */
import type { BlockFile } from "./block_file.ts";
import { BLOCK_ROWS } from "./types.ts";

/** A block's bytes in host memory, (layers, part). */
export interface HostBuffer {
  readonly bytes: Uint8Array;
  /** The same memory. */
  readonly words: Uint32Array;
}

/** A block. Its bytes are either in host memory or in a file, never both. */
export class Block {
  host: HostBuffer | null = null;
  file: BlockFile | null = null;
  /** Sequences that hold it. Without any it is only cached, and gives way to all others. */
  owners = 0;
  /** Name under which the prefix cache finds it. */
  key: string | null = null;
  /** Rows that count in each layer; 0: that part was never put. */
  readonly rows: Uint8Array;
  /** Clock of the last use; what was used longest ago goes down first. */
  lastUse = 0;
  /** The last two different spans of the clock in which it was used. */
  span = -1;
  spanBefore = -1;
  /** Set when it could not be brought back into memory: not tried again. */
  stuck = false;

  constructor(numLayers: number) {
    this.rows = new Uint8Array(numLayers);
  }

  /** Rows that every layer has. */
  get numRows(): number {
    let least = BLOCK_ROWS;
    for (const rows of this.rows) least = Math.min(least, rows);
    return least;
  }

  /** Whether putting a part would change what others read. */
  get isShared(): boolean {
    return this.owners > 1 || this.key !== null;
  }
}

/** The block that was used longest ago, of those that may go. */
export function leastRecent(
  among: Iterable<Block>,
  may: (block: Block) => boolean = () => true,
): Block | null {
  let oldest: Block | null = null;
  for (const block of among) {
    if ((oldest === null || block.lastUse < oldest.lastUse) && may(block)) oldest = block;
  }
  return oldest;
}
