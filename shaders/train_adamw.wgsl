// train_adamw: one step of AdamW (Loshchilov and Hutter, arXiv 1711.05101).
//
// values     (count) f32                                                       read, written
// gradients  (count) f32                                                       read
// moments    (count) vec2f: means of the gradient and of its square            read, written
// clipped    word 64: factor on the gradients                                  read
//
// WG: lanes.

@group(0) @binding(0) var<storage, read_write> values: array<f32>;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;
@group(0) @binding(2) var<storage, read_write> moments: array<vec2f>;
@group(0) @binding(3) var<storage, read> clipped: array<f32>;
@group(0) @binding(4) var<uniform> params: AdamParams;

#include "common/dispatch.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count) * WG + lane;
  if (index >= params.count) {
    return;
  }
  let slope = gradients[index] * clipped[64];
  var moment = moments[index];
  moment.x = mix(slope, moment.x, params.beta1);
  moment.y = mix(slope * slope, moment.y, params.beta2);
  moments[index] = moment;
  let decay = select(0.0, params.decay, index < params.decay_end);
  let step = moment.x * params.correction1 / (sqrt(moment.y * params.correction2) + 1.0e-8);
  var rate = params.norm_rate;
  if (index < params.down_at) {
    rate = params.up_rate;
  } else if (index < params.decay_end) {
    rate = params.down_rate;
  } else if (index < params.keys_end) {
    rate = params.keys_rate;
  }
  values[index] -= rate * (step + decay * values[index]);
}
