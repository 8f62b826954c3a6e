/** Prefixes over a fake runner: blocks are the tokens that their rows stand for. @module */
import type { Prefixes } from "../../src/engine/prefixes.ts";
import { BLOCK_ROWS } from "../../src/kv/slab_pool.ts";
import type { FakeRunner } from "./_fake_engine.ts";

/** Remembers blocks for as long as it lives. */
export class FakePrefixes implements Prefixes {
  readonly blocks = new Map<string, readonly number[]>();
  /** Number of keys of each call. */
  readonly adopted: number[] = [];
  readonly offered: number[] = [];
  numUnsaved = 0;
  /** Runs before each call that takes time; may throw. */
  before: () => void | Promise<void> = () => {};

  constructor(readonly runner: () => FakeRunner) {}

  keys(ids: readonly number[], salt: string): readonly string[] {
    return Array.from(
      { length: Math.floor(ids.length / BLOCK_ROWS) },
      (_, block) => `${salt}:${ids.slice(0, (block + 1) * BLOCK_ROWS).join()}`,
    );
  }

  async adopt(slot: number, keys: readonly string[]): Promise<number> {
    await this.before();
    this.adopted.push(keys.length);
    const rows: number[] = [];
    for (const key of keys) {
      const block = this.blocks.get(key);
      if (block === undefined) break;
      rows.push(...block);
    }
    this.runner().load(slot, rows);
    return rows.length;
  }

  async offer(slot: number, keys: readonly string[]): Promise<void> {
    await this.before();
    this.offered.push(keys.length);
    const rows = this.runner().rows(slot, keys.length * BLOCK_ROWS);
    keys.forEach((key, block) => {
      if (this.blocks.has(key)) return;
      this.blocks.set(key, rows.slice(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS));
      this.numUnsaved++;
    });
  }

  save(limit: number): number {
    this.numUnsaved = Math.max(0, this.numUnsaved - limit);
    return this.numUnsaved;
  }
}
