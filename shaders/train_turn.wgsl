// train_turn: turns pairs of importance dimensions by the position of their row, or back.
//
// angles   (rows, KV heads of all layers, 8) vec2f: cos, sin; 1, 0 for a pair that stands still   read
// queries  (rows, KV heads of all layers, GROUP, 8) vec2f                                         written
//
// One lane a pair.
//
// WG: lanes. GROUP: query heads of a KV head. PAIRS: 8. BACK: the other way round, as gradients go.

@group(0) @binding(0) var<storage, read> angles: array<vec2f>;
@group(0) @binding(1) var<storage, read_write> queries: array<vec2f>;
@group(0) @binding(2) var<uniform> params: TrainParams;

#include "common/dispatch.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count) * WG + lane;
  if (index >= params.rows * params.kv_lists * GROUP * PAIRS) {
    return;
  }
  let pair = index % PAIRS;
  let turn = angles[index / (PAIRS * GROUP) * PAIRS + pair];
  let value = queries[index];
#if BACK
  queries[index] = vec2f(value.x * turn.x + value.y * turn.y, value.y * turn.x - value.x * turn.y);
#else
  queries[index] = vec2f(value.x * turn.x - value.y * turn.y, value.x * turn.y + value.y * turn.x);
#endif
}
