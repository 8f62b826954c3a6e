// What the forms of the matrix product share: bindings, rows of a tile, and what becomes of a sum.
// See matmul.wgsl.
//
// OUT: type of what a lane writes at a time, f32 or vec4f; OUT_WIDTH: how many rows that is.
// BIAS_AT, SQUARES_AT, GAIN_AT, NORMED_AT, PARAMS_AT, STEP_AT: bindings.

@group(0) @binding(0) var<storage, read> weights: array<vec4u>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<OUT>;
#if BIAS
@group(0) @binding(BIAS_AT) var<storage, read> bias: array<OUT>;
#endif
@group(0) @binding(PARAMS_AT) var<uniform> params: MatmulParams;
@group(0) @binding(STEP_AT) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/weights.wgsl"

fn silu(value: OUT) -> OUT {
  return value / (1.0 + exp(-value));
}

// Row of the weights that line `j` of the tile is, held inside the matrix.
fn weight_row(tile: u32, j: u32) -> u32 {
#if EPILOGUE == swiglu
  let row = min(tile * OUT_ROWS + (j % OUT_ROWS), params.rows - 1u);
  return row + (j / OUT_ROWS) * params.rows;
#else
  return min(tile * ROWS + j, params.rows - 1u);
#endif
}

// Writes the sums of rows row .. row + OUT_WIDTH - 1 for token t, both of which must exist, and
// returns what was written.
fn finish(row: u32, t: u32, value: OUT) -> OUT {
  let at = (t * params.y_stride + params.row_offset + row) / OUT_WIDTH;
  var sum = value;
#if BIAS
  sum += bias[(params.row_offset + row) / OUT_WIDTH];
#endif
#if EPILOGUE == add
  sum += y[at];
#endif
#if EPILOGUE == gated
  sum *= silu(y[at]);
#endif
  y[at] = sum;
  return sum;
}
