/**
 * Decode rows whose keys are selected, over a scrambled cache in which every row that is not attended
 * to holds no numbers.
 */
import type { AttentionVariant } from "../../src/gpu/ops/attention.ts";
import { packSelection, selectionStride, SLIDING } from "../../src/gpu/ops/selection.ts";
import { floatToHalf, halfToFloat } from "../../src/model/quants.ts";
import { attendedReference, type Picks } from "../reference/selection.ts";
import { CacheMap } from "./_cache.ts";
import { Random } from "./_rig.ts";

/** A row of a decode step. */
export interface SelectedRow extends Picks {
  readonly slot: number;
  readonly position: number;
}

/** Rows of a step, and where in the row table they begin. */
export interface SelectedCase {
  readonly kvHeads: number;
  readonly rows: readonly SelectedRow[];
  readonly seed: number;
  readonly firstRow?: number;
  /** Size of keys and queries; 1 gives scores of about 1. */
  readonly scale?: number;
}

type Sizes = Pick<AttentionVariant, "headDim" | "group" | "kvType" | "pageSize">;

/** `count` of `from`, ..., `to` - 1, ascending. */
export function pick(random: Random, from: number, to: number, count: number): number[] {
  return random.permutation(to - from).slice(0, count).map((i) => from + i).sort((a, b) => a - b);
}

/** The buffers' contents. */
export class SelectedScene {
  readonly heads: number;
  readonly map: CacheMap;
  readonly keys: Float32Array<ArrayBuffer>;
  readonly values: Float32Array<ArrayBuffer>;
  /** (rows + 1, heads + 2 KV heads, head size); only q of the rows holds numbers. */
  readonly qkv: Float32Array<ArrayBuffer>;
  readonly rowTable: Uint32Array<ArrayBuffer>;
  readonly selection: Uint32Array<ArrayBuffer>;
  readonly listCapacity: number;

  constructor(readonly v: Sizes, readonly c: SelectedCase) {
    const { headDim, group, kvType, pageSize } = v;
    const { kvHeads, rows, firstRow = 0, scale = 1 } = c;
    const random = new Random(c.seed);
    this.heads = kvHeads * group;
    const slots = Math.max(...rows.map(({ slot }) => slot)) + 2;
    const maxPages = Math.floor(Math.max(...rows.map((row) => row.position)) / pageSize) + 2;
    this.map = new CacheMap({ kvType, kvHeads, headDim, pageSize, maxPages, slots }, random);
    this.keys = new Float32Array(this.map.length).fill(NaN);
    this.values = new Float32Array(this.map.length).fill(NaN);
    const round = (x: number) => kvType === "f16" ? halfToFloat(floatToHalf(x)) : x;
    for (const row of rows) {
      for (let h = 0; h < kvHeads; h++) {
        for (const position of attendedReference(row, row.position, h)) {
          const cell = this.map.cell(row.slot, h, position);
          this.keys.set(random.floats(headDim, scale).map(round), cell);
          this.values.set(random.floats(headDim).map(round), cell);
        }
      }
    }
    const rowSize = (this.heads + 2 * kvHeads) * headDim;
    this.qkv = new Float32Array((rows.length + 1) * rowSize).fill(NaN);
    this.rowTable = new Uint32Array((firstRow + rows.length + 1) * 4).fill(0xffffff);
    rows.forEach(({ slot, position }, row) => {
      this.qkv.set(random.floats(this.heads * headDim, scale), row * rowSize);
      this.rowTable.set([0, slot, position, 0], (firstRow + row) * 4);
    });
    const longest = Math.max(...rows.flatMap((row) => row.picks.map((list) => list.length)));
    this.listCapacity = longest + 3;
    // What is not listed names a row of the page that belongs to nobody.
    const stride = selectionStride(kvHeads, this.listCapacity);
    this.selection = new Uint32Array(slots * stride).fill((this.map.numPages - 1) * pageSize);
    for (const row of rows) {
      packSelection(
        {
          ...row,
          windowStart: row.windowStart ?? SLIDING,
          lists: row.picks.map((list) => list.map((position) => this.rowId(row.slot, position))),
        },
        row.slot,
        this.listCapacity,
        this.selection,
      );
    }
  }

  /** Row of the slab. */
  rowId(slot: number, position: number): number {
    const { pageSize, maxPages } = this.map.shape;
    const page = this.map.table[slot * maxPages + Math.floor(position / pageSize)]!;
    return page * pageSize + position % pageSize;
  }

  query(row: number, head: number): number[] {
    const at = (row * (this.heads + 2 * this.c.kvHeads) + head) * this.v.headDim;
    return Array.from(this.qkv.subarray(at, at + this.v.headDim));
  }

  /** What a head of a row attends to, in the order of its keys. */
  attended(row: number, head: number): { keys: number[][]; values: number[][] } {
    const { slot, position } = this.c.rows[row]!;
    const kvHead = Math.floor(head / this.v.group);
    const cells = attendedReference(this.c.rows[row]!, position, kvHead)
      .map((p) => this.map.cell(slot, kvHead, p));
    const read = (cache: Float32Array) =>
      cells.map((cell) => Array.from(cache.subarray(cell, cell + this.v.headDim)));
    return { keys: read(this.keys), values: read(this.values) };
  }
}
