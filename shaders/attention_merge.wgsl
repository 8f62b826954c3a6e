// attention_merge: out[row, head] = sum_s e^(max_s - max) sums_s / sum_s e^(max_s - max) norm_s over
// the splits of decode attention.
//
// partial  (rows, heads, max_splits, HEAD_DIM + 4) f32: sums, maximum, normaliser   read
// rows     (rows of the step) vec4u: token, slot, position, 0                       read
// out      (rows, heads, HEAD_DIM) f32                                              written
//
// One workgroup a head of a row, lanes along the head dimension. Rows with one split are done.
//
// WG: lanes. HEAD_DIM.

@group(0) @binding(0) var<storage, read> partial: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> params: AttentionParams;
@group(0) @binding(4) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let row = index / params.num_heads;
  if (row >= step.num_rows) {
    return;
  }
  let splits = rows[step.first_row + row].z / params.split_keys + 1u;
  if (splits < 2u) {
    return;
  }
  let base = index * params.max_splits * (HEAD_DIM + 4u);
  var maximum = -1e30;
  for (var s = 0u; s < splits; s++) {
    maximum = max(maximum, partial[base + s * (HEAD_DIM + 4u) + HEAD_DIM]);
  }
  for (var d = lane; d < HEAD_DIM; d += WG) {
    var sum = 0.0;
    var normaliser = 0.0;
    for (var s = 0u; s < splits; s++) {
      let at = base + s * (HEAD_DIM + 4u);
      let factor = exp(partial[at + HEAD_DIM] - maximum);
      sum += factor * partial[at + d];
      normaliser += factor * partial[at + HEAD_DIM + 1u];
    }
    out[index * HEAD_DIM + d] = sum / normaliser;
  }
}
