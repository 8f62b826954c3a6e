// matmul: y[t, r] = sum_k w[r, k] * x[t, k]  (+ bias[r]) (+ y[t, r]), weights as stored.
//
// weights  (rows, row_vecs) vec4u, see common/weights.wgsl         read
// x        (tokens, x_stride) vec4f                                read
// y        (tokens, y_stride) f32                                  written, or added to
// bias     (y_stride) f32                                          read, only with BIAS
// squares  (tiles of the product before, up to whole vec4s) f32    read, only with NORM == in
//                                                                  written, only with NORM == out
// gain     (y_stride) f32                                          read, only with NORM == out
// normed   (y_stride) f32                                          written, only with NORM == out
//
// One workgroup makes ROWS x TOKENS sums; its WG lanes walk the row together, a unit each, so that
// weights are unpacked once for all tokens of the tile. Token tiles are neighbours in the grid.
//
// A norm between two products with one token needs no kernel of its own: with NORM == out a product
// also writes y * gain and the sum of y^2 of each tile; with NORM == in x is what the other wrote, and
// sums are multiplied by 1 / sqrt(mean(y^2) + eps). NORM is none otherwise.
//
// WG: lanes. ROWS, TOKENS: tile. SUBGROUPS: sum with subgroupAdd (WG is then one subgroup).
// SHUFFLES: sum by shuffles instead; WG is 8 and OUT_ROWS * TOKENS = OUT_TURNS * 8.
// EPILOGUE: store | add | gated (times the SiLU of what is in y) | swiglu (half of the ROWS are rows
// of the gate, half of the up matrix, which follows the gate in the same buffer). OUT_ROWS: rows of y
// a tile makes. OUT = f32, OUT_WIDTH = 1.
// SUMS = ROWS * TOKENS, a multiple of 4; SUM_QUADS = SUMS / 4; PARTIAL_QUADS = SUM_QUADS * WG.
// BIAS: add a bias. The weight defines and X_STEP: see common/weights.wgsl.

#include "common/product.wgsl"
#include "common/reduce.wgsl"

#if NORM == in
@group(0) @binding(SQUARES_AT) var<storage, read> squares: array<vec4f>;
#endif
#if NORM == out
@group(0) @binding(SQUARES_AT) var<storage, read_write> squares: array<f32>;
@group(0) @binding(GAIN_AT) var<storage, read> gain: array<f32>;
@group(0) @binding(NORMED_AT) var<storage, read_write> normed: array<f32>;
#endif

#if !SHUFFLES
#if SUBGROUPS
// (ROWS, TOKENS): sums of the tile
var<workgroup> totals: array<f32, SUMS>;
#else
// (SUM_QUADS, lanes): four sums of one lane; then (SUM_QUADS) totals
var<workgroup> partial: array<vec4f, PARTIAL_QUADS>;
#endif

// Sum of line r of the tile for its token t, once all lanes have come together.
fn total(r: u32, t: u32) -> f32 {
  let at = r * TOKENS + t;
#if SUBGROUPS
  return totals[at];
#else
  return partial[(at / 4u) * WG][at % 4u];
#endif
}
#endif

// Finishes line j of the tile for token t, if both exist; returns the square of what was written.
fn write_out(tile: u32, j: u32, t: u32, value: f32) -> f32 {
  let row = tile * OUT_ROWS + j;
  if (row >= params.rows || t >= step.num_rows) {
    return 0.0;
  }
  let sum = finish(row, t, value);
#if NORM == out
  normed[row] = sum * gain[row];
#endif
  return sum * sum;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let token_tiles = (step.num_rows + TOKENS - 1u) / TOKENS;
  let index = workgroup_index(id, count);
  let tile = index / token_tiles;
  let first = (index % token_tiles) * TOKENS;
  if (tile * OUT_ROWS >= params.rows) {
    return;
  }
#for r ROWS
  let base_{r} = weight_row(tile, {r}u) * params.row_vecs;
#endfor
#if NORM == in
  var of_tiles = 0.0;
  for (var i = lane; i < params.square_vecs; i += WG) {
    of_tiles += dot(squares[i], vec4f(1.0));
  }
  let mean = reduce_sum(of_tiles, lane) / f32(params.norm_width);
  let scale = inverseSqrt(mean + params.norm_eps);
#else
  let scale = 1.0;
#endif
  var acc: array<f32, SUMS>;
#for t TOKENS
  let x_{t} = min(first + {t}u, step.num_rows - 1u) * params.x_stride;
#endfor
#if TOKENS == 1
  // Four units a lane at a time: a load of four words costs about the same as a load of one.
  for (var i = lane; i < params.units / 4u; i += WG) {
    let at = unit_x(i * 4u);
#for g 4
    let xa_{g} = x[x_0 + at.x + {g}u * X_STEP];
    let xb_{g} = x[x_0 + at.y + {g}u * X_STEP];
    let sums_{g} = vec2f(dot(xa_{g}, vec4f(1.0)), dot(xb_{g}, vec4f(1.0)));
#endfor
#for r ROWS
    {
      let quad = load_quad(base_{r}, i, params.units);
      acc[{r}u] += unit_dot(quad.first, xa_0, xb_0, sums_0) +
        unit_dot(quad.second, xa_1, xb_1, sums_1) + unit_dot(quad.third, xa_2, xb_2, sums_2) +
        unit_dot(quad.fourth, xa_3, xb_3, sums_3);
    }
#endfor
  }
#else
  for (var u = lane; u < params.units; u += WG) {
    let at = unit_x(u);
#for t TOKENS
    let xa_{t} = x[x_{t} + at.x];
    let xb_{t} = x[x_{t} + at.y];
#endfor
#for r ROWS
    {
      let unit = load_unit(base_{r}, u, params.units);
      let wa = weight_a(unit);
      let wb = weight_b(unit);
#for t TOKENS
      acc[{r}u * TOKENS + {t}u] += dot(wa, xa_{t}) + dot(wb, xb_{t});
#endfor
    }
#endfor
  }
#endif
  var squared = 0.0;
#if SHUFFLES
#for i SUMS
  acc[{i}u] += subgroupShuffleXor(acc[{i}u], 1u);
  acc[{i}u] += subgroupShuffleXor(acc[{i}u], 2u);
  acc[{i}u] += subgroupShuffleXor(acc[{i}u], 4u);
#endfor
#for o OUT_TURNS
  {
    let out = {o}u * 8u + lane;
    var sum = 0.0;
#for other 8
    sum = select(sum, acc[{o}u * 8u + {other}u], lane == {other}u);
#endfor
#if EPILOGUE == swiglu
    var up = 0.0;
#for other 8
    up = select(up, acc[OUT_ROWS * TOKENS + {o}u * 8u + {other}u], lane == {other}u);
#endfor
    sum = silu(sum * scale) * up;
#endif
    squared += write_out(tile, out / TOKENS, first + out % TOKENS, sum * scale);
  }
#endfor
#else
#if SUBGROUPS
#for i SUMS
  let sum_{i} = subgroupAdd(acc[{i}u]);
  if (lane == 0u) {
    totals[{i}u] = sum_{i};
  }
#endfor
  workgroupBarrier();
#else
  // By fours: on a CPU a load costs the same for one value as for four.
#for i SUM_QUADS
  partial[{i}u * WG + lane] =
    vec4f(acc[{i}u * 4u], acc[{i}u * 4u + 1u], acc[{i}u * 4u + 2u], acc[{i}u * 4u + 3u]);
#endfor
  workgroupBarrier();
  for (var quad = lane; quad < SUM_QUADS; quad += WG) {
    var sum = vec4f(0.0);
    for (var other = 0u; other < WG; other++) {
      sum += partial[quad * WG + other];
    }
    partial[quad * WG] = sum;
  }
  workgroupBarrier();
#endif
  for (var out = lane; out < OUT_ROWS * TOKENS; out += WG) {
    let j = out / TOKENS;
    let t = out % TOKENS;
#if EPILOGUE == swiglu
    let sum = silu(total(j, t) * scale) * total(j + OUT_ROWS, t);
#else
    let sum = total(j, t);
#endif
    squared += write_out(tile, j, first + t, sum * scale);
  }
#endif
#if NORM == out
  let whole = reduce_sum(squared, lane);
  if (lane == 0u) {
    squares[tile] = whole;
  }
#endif
}
