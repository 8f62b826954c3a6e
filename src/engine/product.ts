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
  /** x is what a product with `normAfter` left, where {@linkcode Product.encode} is told so. */
  readonly normBefore?: NormBefore;
  /** Prepares the norm that follows, where {@linkcode Product.encode} is told so. */
  readonly normAfter?: NormAfter;
}

/** The norm before a product with one token. */
export interface NormBefore {
  /** (at least {@linkcode squareTiles} of the product before) f32 */
  readonly squares: BufferPart;
  /** Rows of the product before. */
  readonly width: number;
  readonly eps: number;
}

/** The norm after a product with one token. The matrix must have one part. */
export interface NormAfter {
  readonly squares: BufferPart;
  /** (rows) f32 */
  readonly gain: BufferPart;
  /** (yStride) f32: y times the gain */
  readonly normed: BufferPart;
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

/** Tiles in which a product of `rows` rows with one token adds up its squares. */
export function squareTiles(plan: KernelPlan, rows: number): number {
  return Math.ceil(rows / oneTokenRows(plan, rows));
}

/** Rows of a tile with one token. */
function oneTokenRows(plan: KernelPlan, rows: number): number {
  return tileRows(plan.tokenTiles.length === 1 ? plan.matmulRows : plan.matvecRows, 4, rows);
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
      rows: tokens === 1 ? oneTokenRows(plan, matrix.rows) : tileRows(
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

async function compileNormTile(
  kernels: Kernels,
  oneToken: MatmulVariant,
  norm: "in" | "out",
): Promise<Tile> {
  const variant = { ...oneToken, norm };
  return { variant, kernel: await compileMatmul(kernels, variant) };
}

interface Part {
  readonly group: GPUBindGroup;
  readonly rows: number;
}

/** A product with its kernels and bindings. */
export class Product {
  readonly #tiles: readonly Tile[];
  readonly #parts: readonly Part[];
  readonly #params: readonly GPUBuffer[];
  /** For one token and a norm before or after. */
  readonly #norm: { readonly tile: Tile; readonly parts: readonly Part[] } | undefined;

  private constructor(
    tiles: readonly Tile[],
    parts: readonly Part[],
    params: readonly GPUBuffer[],
    norm: { tile: Tile; parts: readonly Part[] } | undefined,
  ) {
    this.#tiles = tiles;
    this.#parts = parts;
    this.#params = params;
    this.#norm = norm;
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
    const { normBefore, normAfter } = options;
    const normTile = normBefore === undefined && normAfter === undefined
      ? undefined
      : await compileNormTile(kernels, tiles[0]!.variant, normBefore === undefined ? "out" : "in");
    const squares = (normBefore ?? normAfter)?.squares;
    const params: GPUBuffer[] = [];
    const normParts: Part[] = [];
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
          square_vecs: Math.ceil(squareTiles(plan, normBefore?.width ?? 0) / 4),
          norm_width: normBefore?.width ?? 0,
          norm_eps: normBefore?.eps ?? 0,
        }),
      );
      params.push(uniform);
      const bind = (kernel: Kernel, norm: readonly BufferPart[]) =>
        kernels.bind(kernel, [
          part.buffer,
          options.x,
          options.y,
          ...(bias === undefined ? [] : [bias]),
          ...norm,
          uniform,
          options.step,
        ]);
      if (normTile !== undefined) {
        const after = normAfter === undefined ? [] : [normAfter.gain, normAfter.normed];
        normParts.push({ group: bind(normTile.kernel, [squares!, ...after]), rows });
      }
      return { group: bind(tiles[0]!.kernel, []), rows };
    });
    const norm = normTile === undefined ? undefined : { tile: normTile, parts: normParts };
    return new Product(tiles, parts, params, norm);
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

  /**
   * Sends the product for `numRows` token rows.
   *
   * @param withNorm Takes part in the norm before or after it, if it has one; for one row.
   */
  encode(
    pass: GPUComputePassEncoder,
    numRows: number,
    stepOffset: number,
    withNorm = false,
  ): void {
    const { tile, parts } = withNorm && this.#norm !== undefined
      ? this.#norm
      : { tile: this.#tileFor(numRows), parts: this.#parts };
    for (const { group, rows } of parts) {
      const workgroups = matmulWorkgroups(tile.variant, rows, numRows);
      dispatch(pass, tile.kernel, group, workgroups, stepOffset);
    }
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#params) buffer.destroy();
  }
}
