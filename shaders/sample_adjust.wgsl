// sample_adjust: at the ids of each row's list, in place: l += bias, then l = l > 0 ? l / scale :
// l * scale, then l += add. The old value is kept in the list, where the bias was, so that
// sample_pick can put it back.
//
// rows        (rows)        SampleRow; the list of a row is adjust_first .. + adjust_count - 1
// adjustments (entries)     vec4u: id; scale, add and bias (then the old logit) as bits; ids of a row
//             distinct
// logits      (rows, vocab) f32, as bits
// Mapping: one workgroup a row. Defines: WG.
#include "common/dispatch.wgsl"
#include "common/sample.wgsl"

@group(0) @binding(0) var<storage, read> rows: array<SampleRow>;
@group(0) @binding(1) var<storage, read_write> adjustments: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> logits: array<u32>;
@group(0) @binding(3) var<uniform> params: SampleParams;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group_id: vec3u,
  @builtin(num_workgroups) group_count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = workgroup_index(group_id, group_count);
  if (row >= params.num_rows_max) {
    return;
  }
  let first = rows[row].adjust_first;
  let end = first + rows[row].adjust_count;
  for (var i = first + lane; i < end; i += WG) {
    let entry = adjustments[i];
    let at = row * params.vocab + min(entry.x, params.vocab - 1u);
    let old = logits[at];
    let logit = clean(old) + bitcast<f32>(entry.w);
    let scale = bitcast<f32>(entry.y);
    let scaled = select(logit * scale, logit / scale, logit > 0.0);
    let add = bitcast<f32>(entry.z);
    logits[at] = bitcast<u32>(select(scaled + add, banned, add <= banned));
    adjustments[i].w = old;
  }
}
