/** Products in plain f64: what `shaders/matmul.wgsl` must agree with. @module */

/** What is done with a sum; see `src/gpu/ops/matmul.ts`. */
export interface MatmulCase {
  /** (rows, cols); for swiglu the gate's rows, then as many of up. */
  readonly weights: ArrayLike<number>;
  /** (tokens, xStride) */
  readonly x: ArrayLike<number>;
  /** (tokens, yStride) */
  readonly y: ArrayLike<number>;
  /** (yStride) or none. */
  readonly bias?: ArrayLike<number>;
  /** Rows of y to make. */
  readonly rows: number;
  readonly cols: number;
  readonly tokens: number;
  readonly xStride: number;
  readonly yStride: number;
  readonly rowOffset: number;
  readonly epilogue: "store" | "add" | "swiglu" | "gated";
}

function silu(value: number): number {
  return value / (1 + Math.exp(-value));
}

/** y after the product: (tokens, yStride), `null` where nothing is written. */
export function matmulReference(c: MatmulCase): (number | null)[] {
  const out = new Array<number | null>(c.y.length).fill(null);
  const product = (row: number, token: number) => {
    let sum = 0;
    for (let k = 0; k < c.cols; k++) {
      sum += c.weights[row * c.cols + k]! * c.x[token * c.xStride + k]!;
    }
    return sum;
  };
  for (let token = 0; token < c.tokens; token++) {
    for (let row = 0; row < c.rows; row++) {
      const at = token * c.yStride + c.rowOffset + row;
      let value = product(row, token);
      if (c.epilogue === "swiglu") value = silu(value) * product(row + c.rows, token);
      if (c.bias !== undefined) value += c.bias[c.rowOffset + row]!;
      if (c.epilogue === "add") value += c.y[at]!;
      if (c.epilogue === "gated") value *= silu(c.y[at]!);
      out[at] = value;
    }
  }
  return out;
}
