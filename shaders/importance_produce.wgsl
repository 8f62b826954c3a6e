// importance_produce: one of the two products of a producer of importance queries, for the rows of a
// decode step.
//
// STAGE features: out[row] = silu(weights . (LayerNorm(input[row]) * gain + bias)).
// STAGE queries: out = weights . input, the queries of one served layer after the other; pairs of
// neighbouring values turn with the position of the row, as pairs of the model's queries do.
//
// weights  (rows of the matrix, columns) f32 as vec4f                              read
// input    (rows of the step, input_stride) vec4f                                  read
// out      (layers, layer_stride) f32: in a layer (rows of the step, layer_rows)   written
// gain     (columns) f32 as vec4f                                                  read, with features
// bias     (columns) f32 as vec4f                                                  read, with features
// turns    (rows of the matrix / 2) u32: pair of RoPE, or STILL                    read, with queries
// angles   (rows of the step, params.pairs) vec2f: cos, sin                        read, with queries
//
// One workgroup: ROWS rows of the matrix for a row of the step; its lanes walk the columns together.
//
// WG: lanes. ROWS: even with queries. STILL: no pair. SUBGROUPS: the workgroup is one subgroup.

@group(0) @binding(0) var<storage, read> weights: array<vec4f>;
@group(0) @binding(1) var<storage, read> input: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#if STAGE == features
@group(0) @binding(3) var<storage, read> gain: array<vec4f>;
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;
@group(0) @binding(5) var<uniform> params: ProduceParams;
@group(0) @binding(6) var<uniform> step: StepParams;
#else
@group(0) @binding(3) var<storage, read> turns: array<u32>;
@group(0) @binding(4) var<storage, read> angles: array<vec2f>;
@group(0) @binding(5) var<uniform> params: ProduceParams;
@group(0) @binding(6) var<uniform> step: StepParams;
#endif

#include "common/dispatch.wgsl"

#if !SUBGROUPS
// (ROWS, lanes) sums of one lane
var<workgroup> partial: array<f32, PARTIALS>;
#endif

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let tiles = (params.matrix_rows + ROWS - 1u) / ROWS;
  let row = index / tiles;
  let first = index % tiles * ROWS;
  if (row >= step.num_rows) {
    return;
  }
  let base = row * params.input_stride;
#if STAGE == features
  var sum = 0.0;
  var squares = 0.0;
  for (var i = lane; i < params.quads; i += WG) {
    let x = input[base + i];
    sum += dot(x, vec4f(1.0));
    squares += dot(x, x);
  }
#if SUBGROUPS
  sum = subgroupAdd(sum);
  squares = subgroupAdd(squares);
#else
  partial[lane] = sum;
  partial[WG + lane] = squares;
  workgroupBarrier();
  sum = 0.0;
  squares = 0.0;
#for other WG
  sum += partial[{other}u];
  squares += partial[WG + {other}u];
#endfor
  workgroupBarrier();
#endif
  let mean = sum / f32(params.width);
  let scale = inverseSqrt(max(squares / f32(params.width) - mean * mean, 0.0) + params.eps);
#endif
#for r ROWS
  var acc_{r} = 0.0;
  let at_{r} = min(first + {r}u, params.matrix_rows - 1u) * params.quads;
#endfor
  for (var i = lane; i < params.quads; i += WG) {
#if STAGE == features
    let x = (input[base + i] - mean) * scale * gain[i] + bias[i];
#else
    let x = input[base + i];
#endif
#for r ROWS
    acc_{r} += dot(weights[at_{r} + i], x);
#endfor
  }
#if SUBGROUPS
#for r ROWS
  let total_{r} = subgroupAdd(acc_{r});
#endfor
#else
#for r ROWS
  partial[{r}u * WG + lane] = acc_{r};
#endfor
  workgroupBarrier();
#for r ROWS
  var total_{r} = 0.0;
#endfor
  for (var other = 0u; other < WG; other++) {
#for r ROWS
    total_{r} += partial[{r}u * WG + other];
#endfor
  }
#endif
#if STAGE == queries
  var totals: array<f32, ROWS>;
#for r ROWS
  totals[{r}u] = total_{r};
#endfor
#endif
#for r ROWS
  if (lane == {r}u % WG && first + {r}u < params.matrix_rows) {
    let line = first + {r}u;
    let place = line / params.layer_rows * params.layer_stride + row * params.layer_rows +
      line % params.layer_rows;
#if STAGE == features
    out[place] = total_{r} / (1.0 + exp(-total_{r}));
#else
    let turn = turns[line / 2u];
    var value = total_{r};
    if (turn != STILL) {
      let angle = angles[(step.first_row + row) * params.pairs + turn] * params.turn_scale;
      let other = totals[{r}u ^ 1u];
      value = value * angle.x + select(other, -other, (line & 1u) == 0u) * angle.y;
    }
    out[place] = value;
#endif
  }
#endfor
}
