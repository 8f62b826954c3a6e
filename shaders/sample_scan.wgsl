// sample_scan: for each piece of a row of logits, its largest entry and its sum of exponentials.
//
// rows    (rows)               SampleRow
// logits  (rows, vocab)        f32, as bits
// stats   (2, max_rows, SPLITS) vec4u: key and id of the largest logit; sum of exp(l - largest) and
//                              of exp((l - largest) / temperature), as bits, where wanted
// Mapping: one workgroup a piece; workgroup number = row * SPLITS + piece.
// Phase 0 sees the raw logits, phase 1 the adjusted ones of the rows that have adjustments.
// Defines: WG, SPLITS, UNROLL (entries a lane reads in one turn).
#include "common/dispatch.wgsl"
#include "common/sample.wgsl"

@group(0) @binding(0) var<storage, read> rows: array<SampleRow>;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read_write> stats: array<vec4u>;
@group(0) @binding(3) var<uniform> params: SampleParams;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group_id: vec3u,
  @builtin(num_workgroups) group_count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = workgroup_index(group_id, group_count);
  let row = group / SPLITS;
  let piece = group % SPLITS;
  if (row >= params.num_rows_max) {
    return;
  }
  let wants = select(rows[row].wants_raw, rows[row].wants_adjusted, params.phase == 1u);
  if ((wants & 1u) == 0u) {
    return;
  }
  let base = row * params.vocab;
  let first = base + min(piece * params.piece, params.vocab);
  let end = base + min((piece + 1u) * params.piece, params.vocab);

  var key = 0u;
  var id = nowhere;
  // Indices past the end are clamped: reading the last entry again changes no maximum.
  for (var i = first + lane; i < end; i += WG * UNROLL) {
#for j UNROLL
    let at_{j} = min(i + {j}u * WG, end - 1u);
    let key_{j} = key_of(clean(logits[at_{j}]));
#endfor
#for j UNROLL
    id = select(id, at_{j}, key_{j} > key);
    key = max(key, key_{j});
#endfor
  }
  let best = reduce_best(lane, key, id);

  var total = vec4f(0.0);
  if ((wants & 6u) != 0u && best.x != 0u) {
    let largest = logit_of(best.x);
    let inverse = rows[row].inverse_temperature;
    for (var i = first + lane; i < end; i += WG * UNROLL) {
#for j UNROLL
      let at_{j} = i + {j}u * WG;
      let below_{j} = select(banned, clean(logits[min(at_{j}, end - 1u)]) - largest, at_{j} < end);
#endfor
      // The new terms first: fewer roundings against the large total.
      var part = vec2f(0.0);
#for j UNROLL
      part.x += weight_of(below_{j});
#endfor
      if ((wants & 4u) != 0u) {
#for j UNROLL
        part.y += weight_of(below_{j} * inverse);
#endfor
      }
      total += vec4f(part, 0.0, 0.0);
    }
  }
  let sum = reduce_sum(lane, total);
  if (lane == 0u) {
    let slot = (params.phase * params.num_rows_max + row) * SPLITS + piece;
    stats[slot] = vec4u(best.x, best.y - base, bitcast<u32>(sum.x), bitcast<u32>(sum.y));
  }
}
