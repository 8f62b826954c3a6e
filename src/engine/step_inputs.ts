/**
 * What changes from step to step and lies in buffers: the rows of a step, their angles, and the
 * step's uniform. Everything else is bound once.
 *
 * @module
 */
import type { Kernels } from "../gpu/kernels.ts";
import { ropeAngles } from "../gpu/ops/rope.ts";
import { STEP_PARAMS } from "../gpu/step_params.ts";
import type { RopeConfig } from "../model/types.ts";
import { NUM_STEP_SLOTS, STEP_SLOTS, stepStrideOf } from "./step_slots.ts";

/** A token that goes through the layers. */
export interface StepRow {
  readonly slot: number;
  readonly position: number;
  readonly token: number;
}

/** What the places of the step's uniform say. */
export interface StepNumbers {
  readonly numRows: number;
  readonly numSplits: number;
  readonly firstLogit: number;
  readonly numLogits: number;
  readonly selectedSplits: number;
  readonly stageSplits: number;
  readonly allSplits: number;
  readonly storeCounts: readonly number[];
}

/** A submission without rows of its own. */
export const NO_ROWS: StepNumbers = {
  numRows: 0,
  numSplits: 1,
  firstLogit: 0,
  numLogits: 0,
  selectedSplits: 1,
  stageSplits: 1,
  allSplits: 1,
  storeCounts: [],
};

/** The buffers, and how they are filled. */
export class StepInputs implements Disposable {
  /** Bytes from one place of the uniform to the next. */
  readonly stride: number;
  readonly step: GPUBuffer;
  /** (rows) vec4u: token, slot, position, 0. */
  readonly rows: GPUBuffer;
  /** (rows, rotary dimensions) f32. */
  readonly angles: GPUBuffer;
  /** (slots) u32: what was sampled last. */
  readonly lastTokens: GPUBuffer;
  readonly #queue: GPUQueue;
  readonly #rope: RopeConfig;
  readonly #rowWords: Uint32Array<ArrayBuffer>;
  readonly #angleValues: Float32Array<ArrayBuffer>;
  readonly #stepWords: Uint32Array<ArrayBuffer>;

  /** @param maxRows Rows of a step, at most. */
  constructor(kernels: Kernels, rope: RopeConfig, maxRows: number, maxSequences: number) {
    this.#queue = kernels.device.queue;
    this.#rope = rope;
    this.stride = stepStrideOf(kernels.caps);
    this.#rowWords = new Uint32Array(maxRows * 4);
    this.#angleValues = new Float32Array(maxRows * rope.dimensions);
    this.#stepWords = new Uint32Array(this.stride / 4 * NUM_STEP_SLOTS);
    this.step = kernels.uniform("step", this.#stepWords);
    this.rows = kernels.storage("rows", maxRows * 16);
    this.angles = kernels.storage("angles", maxRows * rope.dimensions * 4);
    this.lastTokens = kernels.storage("last tokens", maxSequences * 4);
  }

  /** Writes the rows of a step and the angles of their positions. */
  writeRows(rows: readonly StepRow[]): void {
    const words = this.#rowWords;
    const { dimensions } = this.#rope;
    rows.forEach(({ slot, position, token }, index) => {
      words[index * 4] = token;
      words[index * 4 + 1] = slot;
      words[index * 4 + 2] = position;
      ropeAngles(this.#rope, position, this.#angleValues, index * dimensions);
    });
    this.#queue.writeBuffer(this.rows, 0, words, 0, rows.length * 4);
    this.#queue.writeBuffer(this.angles, 0, this.#angleValues, 0, rows.length * dimensions);
  }

  /** Writes every place of the uniform. */
  writeStep(numbers: StepNumbers): void {
    const { numRows, numSplits, firstLogit, numLogits, storeCounts } = numbers;
    const stride = this.stride / 4;
    const put = (place: number, num_rows: number, num_splits: number, logits_row = 0) =>
      this.#stepWords.set(
        STEP_PARAMS.pack({ first_row: 0, num_rows, num_splits, logits_row }),
        place * stride,
      );
    put(STEP_SLOTS.layers, numRows, numSplits);
    put(STEP_SLOTS.head, numLogits, numSplits, firstLogit);
    put(STEP_SLOTS.selected, numRows, numbers.selectedSplits);
    put(STEP_SLOTS.stage, numRows, numbers.stageSplits);
    put(STEP_SLOTS.all, numRows, numbers.allSplits);
    storeCounts.forEach((count, kind) => put(STEP_SLOTS.store + kind, count, 1));
    this.#queue.writeBuffer(this.step, 0, this.#stepWords);
  }

  [Symbol.dispose](): void {
    for (const buffer of [this.step, this.rows, this.angles, this.lastTokens]) buffer.destroy();
  }
}
