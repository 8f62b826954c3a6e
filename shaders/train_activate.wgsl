// train_activate: what lies between the products of a producer, value by value.
//
// OP affine: out = in * gain + bias by column. silu: out = silu(in). silu_slope: out = other *
// silu'(in), which leaves the gradient of in where that of silu(in) is `other`.
//
// values  the trained values, of which gain and bias are used                  read
// input   (rows, columns) f32                                                  read
// other   (rows, columns) f32                                                  read, with silu_slope
// out     (rows, columns) f32                                                  written
//
// WG: lanes.

@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> input: array<f32>;
@group(0) @binding(2) var<storage, read> other: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<uniform> params: TrainParams;

#include "common/dispatch.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count) * WG + lane;
#if OP == affine
  let columns = params.hidden;
#else
  let columns = params.inner;
#endif
  if (index >= params.rows * columns) {
    return;
  }
  let u = input[index];
#if OP == affine
  let column = index % columns;
  out[index] = u * values[params.gain_at + column] + values[params.bias_at + column];
#else
  let sigmoid = 1.0 / (1.0 + exp(-u));
#if OP == silu
  out[index] = u * sigmoid;
#else
  out[index] = other[index] * sigmoid * (1.0 + u * (1.0 - sigmoid));
#endif
#endif
}
