// score_lists: lists of attention mass as scores, for selection; with POOL the average of five
// neighbours, with zeros for positions that are no candidates for want of age, or negative.
//
// mass     as in attention_mass; with TARGET lists a list is a KV head                  read
// imp_pages  (slots, max_pages) u32; only with TARGET store                             read
// rows     (rows of the step) vec4u: token, slot, position, 0                           read
// recipes  (slots, recipe_stride) u32                                                   read
// scores   (rows, kv_heads, score_stride): f32 scores, then the largest key of each eight   written
//
// Mapping as in score_projected, with one run a lane. Pooled positions: 0 .. end of the candidates.
//
// WG: lanes. POOL. TARGET. EACH_ROW. UNIT: rows.

@group(0) @binding(0) var<storage, read> mass: array<f32>;
@group(0) @binding(1) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4u>;
@group(0) @binding(3) var<storage, read> recipes: array<u32>;
@group(0) @binding(4) var<storage, read_write> scores: array<vec4u>;
@group(0) @binding(5) var<uniform> params: ListParams;
@group(0) @binding(6) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/candidates.wgsl"
#include "common/score_out.wgsl"

const page_rows = 32u;

var<private> slot: u32;
var<private> kv_head: u32;
var<private> mass_list: u32;
var<private> range: vec2u;

// Mass of a position; 0 beyond the candidates' end.
fn mass_at(position: u32) -> f32 {
  let safe = min(position, range.y - 1u);
#if TARGET == store
  let page = imp_pages[slot * params.max_pages + safe / page_rows] * params.num_kv_heads + kv_head;
  let value = mass[page * params.importance_quads * 4u + safe % page_rows];
#else
  let value = mass[mass_list * params.mass_stride + safe];
#endif
  return select(0.0, value, position < range.y);
}

fn score_at(position: u32) -> f32 {
#if POOL
  // Before position 0 the index wraps round to beyond the end.
  return (mass_at(position - 2u) + mass_at(position - 1u) + mass_at(position) +
    mass_at(position + 1u) + mass_at(position + 2u)) / 5.0;
#else
  return mass_at(position);
#endif
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  kv_head = index % params.num_kv_heads;
  let row = index / params.num_kv_heads % step.num_rows;
  let block = index / (params.num_kv_heads * step.num_rows);
  let info = rows[step.first_row + row];
  slot = info.y;
  range = candidates_of(slot, info.z);
  let list = row * params.num_kv_heads + kv_head;
#if EACH_ROW
  mass_list = list;
#else
  mass_list = kv_head;
#endif
  let run = (block * WG + lane) * 8u;
  if (range.x >= range.y || run < range.x / page_rows * page_rows ||
    run >= (range.y + page_rows - 1u) / page_rows * page_rows) {
    return;
  }
  var best = 0u;
  for (var half = 0u; half < 2u; half++) {
    let at = run + half * 4u;
    let score = vec4f(score_at(at), score_at(at + 1u), score_at(at + 2u), score_at(at + 3u));
    best = max(best, put_scores(list, at, score, range));
  }
  put_maximum(list, run, best);
}
