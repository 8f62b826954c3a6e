// train_teacher: the model's own attention over the candidates of each row, from its scores.
//
// scores     (layers, heads, rows, tokens) f32: q . k / sqrt(head size)                   read
// positions  (rows) u32                                                                   read
// shares     (layers, heads, rows, tokens) two f16 a word: attention among the candidates, 1 in sum
//                                                                                         written
// mass       (layers, heads, rows) f32: the candidates' part of all attention             written
//
// One workgroup: a row of a head; a lane has every WG-th four tokens.
//
// WG, SUBGROUPS, FULL: see common/train_lists.wgsl.

@group(0) @binding(0) var<storage, read> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read_write> shares: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> mass: array<f32>;
@group(0) @binding(4) var<uniform> params: TrainParams;

#include "common/dispatch.wgsl"
#include "common/train_lists.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let quads = params.tokens / 4u;
  let base = index * quads;
  let position = positions[index % params.rows];
  let so_far = vec2u(0u, position + 1u);
  let range = candidates_at(position);
  var most = -3.0e38;
  for (var i = lane; i < quads; i += WG) {
    most = max(most, max_of(select(vec4f(-3.0e38), scores[base + i], inside(i, so_far) > vec4f(0.0))));
  }
  most = lanes_max(most, lane);
  var all = 0.0;
  var among = 0.0;
  for (var i = lane; i < quads; i += WG) {
    let weights = exp(min(scores[base + i] - most, vec4f(0.0))) * inside(i, so_far);
    all += sum_of(weights);
    among += sum_of(weights * inside(i, range));
  }
  all = lanes_sum(all, lane);
  among = lanes_sum(among, lane);
  let scale = select(0.0, 1.0 / among, among > 0.0);
  for (var i = lane; i < quads; i += WG) {
    let part = exp(min(scores[base + i] - most, vec4f(0.0))) * inside(i, range) * scale;
    shares[base + i] = vec2u(pack2x16float(part.xy), pack2x16float(part.zw));
  }
  if (lane == 0u) {
    mass[index] = among / all;
  }
}
