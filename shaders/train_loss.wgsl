// train_loss: loss of the predicted scores of each row and KV head, and its slopes in their place;
// src/train/objective.ts says what it is.
//
// scores     (layers, heads, rows, tokens) f32; then the slopes, 0 for other than candidates
//                                                                              read, written
// shares     as train_teacher leaves them                                      read
// mass       (layers, heads, rows) f32                                         read
// positions  (rows) u32                                                        read
// loss       (layers, kv_heads, rows) f32                                      written
//
// One workgroup: a row of a KV head; a lane has every WG-th four tokens.
//
// GROUP: query heads of a KV head. TAIL: with the term of roots. WG, SUBGROUPS, FULL: see common/train_lists.wgsl.

@group(0) @binding(0) var<storage, read_write> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read> shares: array<vec2u>;
@group(0) @binding(2) var<storage, read> mass: array<f32>;
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<uniform> params: TrainParams;

#include "common/dispatch.wgsl"
#include "common/train_lists.wgsl"

fn share_at(at: u32) -> vec4f {
  let words = shares[at];
  return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let row = index % params.rows;
  let quads = params.tokens / 4u;
  let range = candidates_at(positions[row]);
#for g GROUP
  let list_{g} = (index / params.rows * GROUP + {g}u) * params.rows + row;
  let base_{g} = list_{g} * quads;
#endfor
  if (range.y <= range.x) {
    for (var i = lane; i < quads; i += WG) {
#for g GROUP
      scores[base_{g} + i] = vec4f(0.0);
#endfor
    }
    if (lane == 0u) {
      loss[index] = 0.0;
    }
    return;
  }
  let first = range.x / 4u;
  let end = (range.y + 3u) / 4u;
#for g GROUP
  let mass_{g} = mass[list_{g}];
  var most_{g} = -3.0e38;
#endfor
  for (var i = first + lane; i < end; i += WG) {
    let here = inside(i, range) > vec4f(0.0);
#for g GROUP
    most_{g} = max(most_{g}, max_of(select(vec4f(-3.0e38), scores[base_{g} + i], here)));
#endfor
  }
#for g GROUP
  let top_{g} = lanes_max(most_{g}, lane);
#endfor
  var top = top_0;
#for g GROUP
  top = max(top, top_{g});
#endfor
#for g GROUP
  // Of a head's powers to those of the whole group.
  let lift_{g} = exp(top_{g} - top);
  var part_{g} = 0.0;
#endfor
  var wanted_part = 0.0;
#if TAIL
  var root_part = 0.0;
  var wanted_root_part = 0.0;
#endif
  for (var i = first + lane; i < end; i += WG) {
    let here = inside(i, range);
    var wanted = vec4f(0.0);
    var all = vec4f(0.0);
#for g GROUP
    let power_{g} = exp(min(scores[base_{g} + i] - top_{g}, vec4f(0.0))) * here;
    part_{g} += sum_of(power_{g});
    all += power_{g} * lift_{g};
    wanted = max(wanted, share_at(base_{g} + i) * mass_{g});
#endfor
    wanted_part += sum_of(wanted);
#if TAIL
    root_part += sum_of(sqrt(all));
    wanted_root_part += sum_of(sqrt(wanted));
#endif
  }
  var together = 0.0;
#for g GROUP
  let sum_{g} = lanes_sum(part_{g}, lane);
  let log_{g} = log(sum_{g});
  together += sum_{g} * lift_{g};
#endfor
  let wanted_sum = lanes_sum(wanted_part, lane);
  let wanted_scale = select(0.0, 1.0 / wanted_sum, wanted_sum > 0.0);
  let log_together = log(together);
#if TAIL
  let roots = lanes_sum(root_part, lane);
  let wanted_roots = lanes_sum(wanted_root_part, lane);
  let wanted_root_scale = select(0.0, 1.0 / wanted_roots, wanted_roots > 0.0);
#endif
  var value = 0.0;
  for (var i = lane; i < quads; i += WG) {
    let here = inside(i, range);
    var all = vec4f(0.0);
    var wanted = vec4f(0.0);
#for g GROUP
    let score_{g} = scores[base_{g} + i];
    let power_{g} = exp(min(score_{g} - top_{g}, vec4f(0.0)));
    let share_{g} = share_at(base_{g} + i);
    all += power_{g} * lift_{g};
    wanted = max(wanted, share_{g} * mass_{g});
#endfor
    all = max(all, vec4f(1.0e-37));
#if TAIL
    let root = sqrt(all) / roots;
    let wanted_root = sqrt(wanted) * wanted_root_scale;
    value -= params.tail_weight * sum_of(here * wanted_root * log(root));
#endif
    wanted *= wanted_scale;
    var group_slope = params.group_weight * (all / together - wanted);
#if TAIL
    group_slope += 0.5 * params.tail_weight * (root - wanted_root);
#endif
    value -= params.group_weight * sum_of(here * wanted * (log(all) - log_together));
#for g GROUP
    value -= params.head_weight * sum_of(here * share_{g} * (score_{g} - top_{g} - log_{g}));
    scores[base_{g} + i] = here * (params.head_weight * (power_{g} / sum_{g} - share_{g}) +
      group_slope * (power_{g} * lift_{g}) / all);
#endfor
  }
  value = lanes_sum(value, lane);
  if (lane == 0u) {
    loss[index] = value;
  }
}
