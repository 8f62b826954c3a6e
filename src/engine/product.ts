/**
 * One matrix product of the model, ready to be sent for any number of token rows: its kernels by
 * tile size, its bind groups by part.
 *
 * @module
 */
import { type BufferPart, dispatch, type Kernel, type Kernels } from "../gpu/kernels.ts";
import {
  canUseLanes,
  compileMatmul,
  MATMUL_PARAMS,
  type MatmulEpilogue,
  type MatmulVariant,
  matmulWorkgroups,
} from "../gpu/ops/matmul.ts";
import type { KernelPlan } from "../gpu/plan.ts";
import { paddedCols, rowVecs } from "../gpu/weight_layout.ts";
import type { DeviceMatrix } from "./weights.ts";

/** Where a product reads and writes. */
export interface ProductOptions {
  readonly matrix: DeviceMatrix;
  /** (rows, xStride) f32 */
  readonly x: BufferPart;
  /** f32 in a row of x, a multiple of 4; the padded columns of the matrix by default. */
  readonly xStride?: number;
  /** (rows, yStride) f32 */
  readonly y: BufferPart;
  readonly yStride: number;
  /** Column of y that the first row of the matrix goes to. */
  readonly yOffset?: number;
  readonly epilogue: MatmulEpilogue;
  /** (yStride) f32, added to the sums. */
  readonly bias?: BufferPart;
  readonly step: BufferPart;
}

interface Tile {
  readonly variant: MatmulVariant;
  readonly kernel: Kernel;
}

/** Workgroups for one token that a product should have at least, so that all cores get some. */
const LEAST_WORKGROUPS = 16;

/** Rows of a tile: as the plan says, fewer for a matrix that would make too few workgroups. */
function tileRows(planned: number, least: number, matrixRows: number): number {
  let rows = planned;
  while (rows % (2 * least) === 0 && matrixRows / rows < LEAST_WORKGROUPS) rows /= 2;
  return rows;
}

/** The tiles of a product, by the tokens they have. */
function variants(plan: KernelPlan, options: ProductOptions): MatmulVariant[] {
  const { matrix, epilogue, bias, yOffset = 0, yStride } = options;
  const common = {
    type: matrix.type,
    epilogue,
    bias: bias !== undefined,
    lanes: plan.matmulLanes,
    subgroups: plan.subgroups,
  };
  const laneTiles = matrix.parts.every((part) =>
      canUseLanes(
        epilogue === "swiglu" ? part.rows / 2 : part.rows,
        yOffset + part.firstRow,
        yStride,
      )
    )
    ? plan.laneTiles
    : [];
  const rowTiles = plan.tokenTiles.filter((tokens) => tokens < (laneTiles[0] ?? Infinity));
  return [
    ...rowTiles.map((tokens) => ({
      ...common,
      form: "rows" as const,
      tokens,
      // Only the largest tile is worth the compile time of many rows.
      rows: tileRows(
        tokens === plan.tokenTiles.at(-1) ? plan.matmulRows : plan.matvecRows,
        4,
        matrix.rows,
      ),
    })),
    ...laneTiles.map((tokens) => ({
      ...common,
      form: "lanes" as const,
      tokens,
      rows: tileRows(plan.laneRows, 2 * plan.matmulLanes, matrix.rows),
    })),
  ];
}

/** A product with its kernels and bindings. */
export class Product {
  readonly #tiles: readonly Tile[];
  readonly #parts: readonly { readonly group: GPUBindGroup; readonly rows: number }[];
  readonly #params: readonly GPUBuffer[];

  private constructor(
    tiles: readonly Tile[],
    parts: readonly { group: GPUBindGroup; rows: number }[],
    params: readonly GPUBuffer[],
  ) {
    this.#tiles = tiles;
    this.#parts = parts;
    this.#params = params;
  }

  /** Compiles what is new and makes the bind groups. */
  static async create(
    kernels: Kernels,
    plan: KernelPlan,
    options: ProductOptions,
  ): Promise<Product> {
    const { matrix, epilogue, bias } = options;
    const tiles: Tile[] = [];
    for (const variant of variants(plan, options)) {
      tiles.push({ variant, kernel: await compileMatmul(kernels, variant) });
    }
    const params: GPUBuffer[] = [];
    const parts = matrix.parts.map((part) => {
      // Gate and up rows lie one after the other in one part; y gets one row for both.
      const rows = epilogue === "swiglu" ? part.rows / 2 : part.rows;
      const uniform = kernels.uniform(
        "product",
        MATMUL_PARAMS.pack({
          rows,
          units: paddedCols(matrix.cols) / 8,
          row_vecs: rowVecs(matrix.type, matrix.cols),
          row_offset: (options.yOffset ?? 0) + part.firstRow,
          y_stride: options.yStride,
          x_stride: (options.xStride ?? paddedCols(matrix.cols)) / 4,
        }),
      );
      params.push(uniform);
      const group = kernels.bind(tiles[0]!.kernel, [
        part.buffer,
        options.x,
        options.y,
        ...(bias === undefined ? [] : [bias]),
        uniform,
        options.step,
      ]);
      return { group, rows };
    });
    return new Product(tiles, parts, params);
  }

  /** The smallest tile that holds the rows; of two sizes, not one that would be half empty. */
  #tileFor(numRows: number): Tile {
    const holds = this.#tiles.findIndex(({ variant }) => variant.tokens >= numRows);
    const tile = this.#tiles.at(holds)!;
    const smaller = holds > 0 ? this.#tiles[holds - 1]! : tile;
    return 2 * numRows < tile.variant.tokens && smaller.variant.form === tile.variant.form
      ? smaller
      : tile;
  }

  /** Sends the product for `numRows` token rows. */
  encode(pass: GPUComputePassEncoder, numRows: number, stepOffset: number): void {
    const tile = this.#tileFor(numRows);
    for (const { group, rows } of this.#parts) {
      const workgroups = matmulWorkgroups(tile.variant, rows, numRows);
      dispatch(pass, tile.kernel, group, workgroups, stepOffset);
    }
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#params) buffer.destroy();
  }
}
