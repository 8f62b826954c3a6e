// score_exact: for each candidate row the largest over the query heads of a KV head of
// q . k / sqrt(HEAD_DIM).
//
// qkv      (rows, heads + 2 kv_heads, HEAD_DIM) f32; q is read          read
// k_cache  (pages, kv_heads, 32, HEAD_DIM) vec4                         read
// pages    (slots, max_pages) u32; only with SOURCE pages               read
// rows     (rows of the step) vec4u: token, slot, position, 0           read
// recipes  (slots, recipe_stride) u32                                   read
// scores   (rows, kv_heads, score_stride): f32 scores, then the largest key of each eight   written
//
// SOURCE pages: keys are found through the page table. SOURCE staging: page i of k_cache holds the
// positions from params.base + 32 i on, whatever the slot; only those of params.count positions are
// scored. Mapping as in score_projected, with blocks that begin at params.base.
//
// WG: lanes. GROUP: query heads of a KV head. TURNS: runs of a lane. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8.
// QUERY_QUADS = GROUP * HEAD_DIM / 4. SHARED: queries lie in workgroup memory. KV_TYPE. CACHE_VEC.
// UNIT: rows.

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> k_cache: array<CACHE_VEC>;
#if SOURCE == pages
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4u>;
@group(0) @binding(4) var<storage, read> recipes: array<u32>;
@group(0) @binding(5) var<storage, read_write> scores: array<vec4u>;
@group(0) @binding(6) var<uniform> params: ListParams;
@group(0) @binding(7) var<uniform> step: StepParams;
#else
@group(0) @binding(2) var<storage, read> rows: array<vec4u>;
@group(0) @binding(3) var<storage, read> recipes: array<u32>;
@group(0) @binding(4) var<storage, read_write> scores: array<vec4u>;
@group(0) @binding(5) var<uniform> params: ListParams;
@group(0) @binding(6) var<uniform> step: StepParams;
#endif

#include "common/dispatch.wgsl"
#include "common/candidates.wgsl"
#include "common/score_out.wgsl"
#include "common/kv_rows.wgsl"
#include "common/list_keys.wgsl"

#if SHARED
var<workgroup> query: array<vec4f, QUERY_QUADS>;
#else
var<private> query: array<vec4f, QUERY_QUADS>;
#endif

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
  let begin = params.base + block * (8u * TURNS * WG);
  if (range.x >= range.y || begin >= range.y || begin - params.base >= params.count) {
    return;
  }
  let list = row * params.num_kv_heads + kv_head;
  let first = range.x / page_rows * page_rows;
  let end = (range.y + page_rows - 1u) / page_rows * page_rows;

  let queries_at = (row * (params.num_heads + 2u * params.num_kv_heads) + kv_head * GROUP) *
    (HEAD_DIM / 4u);
  let scale = inverseSqrt(f32(HEAD_DIM));
#if SHARED
  for (var i = lane; i < QUERY_QUADS; i += WG) {
    query[i] = qkv[queries_at + i] * scale;
  }
  workgroupBarrier();
#else
#for i QUERY_QUADS
  query[{i}] = qkv[queries_at + {i}u] * scale;
#endfor
#endif
  for (var turn = 0u; turn < TURNS; turn++) {
    let run = begin + (turn * WG + lane) * 8u;
    // Pages that hold a candidate are written whole, also where the last piece ends within one.
    let offset = run - params.base;
    if (run >= first && run < end && offset / page_rows * page_rows < params.count) {
#if SOURCE == pages
      let page = pages[info.y * params.max_pages + run / page_rows];
#else
      let page = offset / page_rows;
#endif
      let cell = cell_of(page, kv_head, run);
      var best = 0u;
      for (var half = 0u; half < 2u; half++) {
        var score = vec4f(0.0);
        for (var j = 0u; j < 4u; j++) {
          let at = cell + (half * 4u + j) * HEAD_DIM;
#for g GROUP
          var dot_{g} = 0.0;
#endfor
#for i HEAD_VEC
          {
            let k = load_key(at, {i}u);
#for g GROUP
            dot_{g} += dot(query[{g}u * (HEAD_DIM / 4u) + {i}u * 2u], k.a) +
              dot(query[{g}u * (HEAD_DIM / 4u) + {i}u * 2u + 1u], k.b);
#endfor
          }
#endfor
          var top = dot_0;
#for g GROUP
          top = max(top, dot_{g});
#endfor
          score = select(score, vec4f(top), vec4u(0u, 1u, 2u, 3u) == vec4u(j));
        }
        best = max(best, put_scores(list, run + half * 4u, score, range));
      }
      put_maximum(list, run, best);
    }
  }
}
