// rms_norm: y[row] = x[source + row] * gain / sqrt(mean(x[source + row]^2) + eps)
//
// x     (rows, stride) vec4f     read
// gain  (stride) vec4f           read
// y     (rows, stride) vec4f     written
//
// One workgroup a row; its lanes walk the row together. `source` is the step's logits_row, which is 0
// except for the last norm of a prefill, where only some rows go on to the logits.
//
// WG: lanes. SUBGROUPS: sum with subgroupAdd (WG is then one subgroup).

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gain: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: NormParams;
@group(0) @binding(4) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/reduce.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = workgroup_index(id, count);
  if (row >= step.num_rows) {
    return;
  }
  let source = (step.logits_row + row) * params.stride;
  var sum = 0.0;
  for (var i = lane; i < params.stride; i += WG) {
    let value = x[source + i];
    sum += dot(value, value);
  }
  let scale = inverseSqrt(reduce_sum(sum, lane) / f32(params.width) + params.eps);
  for (var i = lane; i < params.stride; i += WG) {
    y[row * params.stride + i] = x[source + i] * gain[i] * scale;
  }
}
