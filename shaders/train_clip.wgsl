// train_clip: by how much gradients are too long. Two dispatches: without FINAL the sum of squares of
// each workgroup's part; with it, in one workgroup, the factor that makes the whole not longer than
// params.clip.
//
// gradients  (count) vec4f                                                     read
// partial    (64) f32 sums of squares, then the factor                         read, written
//
// WG, SUBGROUPS: see common/train_lists.wgsl. FULL: false.

@group(0) @binding(0) var<storage, read> gradients: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>;
@group(0) @binding(2) var<uniform> params: TrainParams;

#include "common/train_lists.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  var sum = 0.0;
#if FINAL
  for (var i = lane; i < 64u; i += WG) {
    sum += partial[i];
  }
  sum = lanes_sum(sum, lane);
  if (lane == 0u) {
    partial[64] = min(1.0, params.clip / max(sqrt(sum), 1.0e-20));
  }
#else
  let quads = params.count / 4u;
  for (var i = id.x * WG + lane; i < quads; i += 64u * WG) {
    sum += dot(gradients[i], gradients[i]);
  }
  sum = lanes_sum(sum, lane);
  if (lane == 0u) {
    partial[id.x] = sum;
  }
#endif
}
