// score_pages: for each candidate page of sixteen rows the largest over the query heads of a KV head of
// sum_d max(q_d minimum_d, q_d maximum_d), which no row of the page exceeds in q . k.
//
// qkv         (rows, heads + 2 kv_heads, HEAD_DIM) f32; q is read             read
// importance  (pages, kv_heads, importance_quads) vec4u, see page_bounds      read
// imp_pages   (slots, max_pages) u32                                          read
// rows        (rows of the step) vec4u: token, slot, position, 0              read
// recipes     (slots, recipe_stride) u32                                      read
// scores      (rows, kv_heads, score_stride): f32 scores, then the largest key of each eight   written
//
// Mapping as in score_projected: a lane has runs of eight pages of sixteen.
//
// WG: lanes. GROUP: query heads of a KV head. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8.
// HEAD_QUADS: vec4u of the minima. KV_TYPE. UNIT: pages.

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> importance: array<vec4u>;
@group(0) @binding(2) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4u>;
@group(0) @binding(4) var<storage, read> recipes: array<u32>;
@group(0) @binding(5) var<storage, read_write> scores: array<vec4u>;
@group(0) @binding(6) var<uniform> params: ListParams;
@group(0) @binding(7) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/candidates.wgsl"
#include "common/score_out.wgsl"
#include "common/eight.wgsl"

const page_rows = 32u;

fn load_bound(at: u32, i: u32) -> Eight {
#if KV_TYPE == f16
  return eight(importance[at + i]);
#else
  return Eight(
    bitcast<vec4f>(importance[at + 2u * i]),
    bitcast<vec4f>(importance[at + 2u * i + 1u]),
  );
#endif
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let kv_head = index % params.num_kv_heads;
  let row = index / params.num_kv_heads % step.num_rows;
  let block = index / (params.num_kv_heads * step.num_rows);
  let info = rows[step.first_row + row];
  let range = candidates_of(info.y, info.z);
  let run = (block * WG + lane) * 8u;
  if (range.x >= range.y || run < range.x / page_rows * page_rows ||
    run >= (range.y + page_rows - 1u) / page_rows * page_rows) {
    return;
  }
  let list = row * params.num_kv_heads + kv_head;
  let queries_at = (row * (params.num_heads + 2u * params.num_kv_heads) + kv_head * GROUP) *
    (HEAD_DIM / 4u);
  var best = 0u;
  for (var half = 0u; half < 2u; half++) {
    var score = vec4f(0.0);
    for (var j = 0u; j < 4u; j++) {
      // Past the last candidate no page need exist, so that one is read in their place.
      let item = min(run + half * 4u + j, range.y - 1u);
      let page = imp_pages[info.y * params.max_pages + item / 2u];
      let at = (page * params.num_kv_heads + kv_head) * params.importance_quads +
        item % 2u * (2u * HEAD_QUADS);
#for g GROUP
      var sum_{g} = vec4f(0.0);
#endfor
      for (var i = 0u; i < HEAD_VEC; i++) {
        let low = load_bound(at, i);
        let high = load_bound(at + HEAD_QUADS, i);
#for g GROUP
        {
          let a = qkv[queries_at + {g}u * (HEAD_DIM / 4u) + i * 2u];
          let b = qkv[queries_at + {g}u * (HEAD_DIM / 4u) + i * 2u + 1u];
          sum_{g} += max(a * low.a, a * high.a) + max(b * low.b, b * high.b);
        }
#endfor
      }
      var top = sum_0.x + sum_0.y + sum_0.z + sum_0.w;
#for g GROUP
      top = max(top, sum_{g}.x + sum_{g}.y + sum_{g}.z + sum_{g}.w);
#endfor
      score = select(score, vec4f(top), vec4u(0u, 1u, 2u, 3u) == vec4u(j));
    }
    best = max(best, put_scores(list, run + half * 4u, score, range));
  }
  put_maximum(list, run, best);
}
