// attention_mass: adds to each cached row the attention that it gets from the rows of the step: the sum
// over rows and over the query heads of a KV head of exp(q . k / sqrt(HEAD_DIM) - lse), causal.
//
// qkv      (rows, heads + 2 kv_heads, HEAD_DIM) f32; q is read              read
// k_cache  (pages, kv_heads, 32, HEAD_DIM) vec4                             read
// pages    (slots, max_pages) u32; only with SOURCE pages                   read
// rows     (rows of the step) vec4u: token, slot, position, bits            read
// lse      (rows, heads) f32: logarithm of the sum of exponentials of a head's scores   read
// imp_pages  (slots, max_pages) u32; only with TARGET store                 read
// mass     TARGET lists: (lists, mass_stride) f32, index = position; a list is a KV head, with EACH_ROW
//          a row and KV head. TARGET store: (pages, kv_heads, importance_quads) vec4u, seen as f32:
//          row r of a page at r                                             read and written
//
// Positions params.base .. params.base + params.count - 1; sources as in score_exact.
// Rows without the bit KEEPS count for nothing; of the rows of one sequence those are the first ones.
// Without EACH_ROW all rows of the step are of one sequence, in ascending order, and one workgroup: a
// block of TURNS WG positions and a KV head. With EACH_ROW: a row, too; index of the workgroup =
// (block * rows + row) * kv_heads + kv_head.
//
// WG: lanes. GROUP: query heads of a KV head. TURNS: positions of a lane. QUERY_ROWS: rows that a key is
// loaded for together. QUERIES = QUERY_ROWS * GROUP. QUERY_QUADS = QUERIES * HEAD_DIM / 4.
// ROW_QUADS = GROUP * HEAD_DIM / 4. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8. SHARED: queries lie in workgroup
// memory. KV_TYPE. CACHE_VEC. KEEPS: bit of the rows whose attention counts.

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> k_cache: array<CACHE_VEC>;
@group(0) @binding(2) var<storage, read> rows: array<vec4u>;
@group(0) @binding(3) var<storage, read> lse: array<f32>;
@group(0) @binding(4) var<storage, read_write> mass: array<f32>;
@group(0) @binding(5) var<storage, read> pages: array<u32>;
@group(0) @binding(6) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(7) var<uniform> params: ListParams;
@group(0) @binding(8) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/kv_rows.wgsl"
#include "common/list_keys.wgsl"

#if SHARED
var<workgroup> query: array<vec4f, QUERY_QUADS>;
var<workgroup> log_sums: array<f32, QUERIES>;
#else
var<private> query: array<vec4f, QUERY_QUADS>;
var<private> log_sums: array<f32, QUERIES>;
#endif

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let kv_head = index % params.num_kv_heads;
#if EACH_ROW
  let first_row = index / params.num_kv_heads % step.num_rows;
  let end_row = first_row + 1u;
  let block = index / (params.num_kv_heads * step.num_rows);
  let list = first_row * params.num_kv_heads + kv_head;
#else
  let first_row = 0u;
  let end_row = step.num_rows;
  let block = index / params.num_kv_heads;
  let list = kv_head;
#endif
  let slot = rows[step.first_row + first_row].y;
  let table = slot * params.max_pages;
  let begin = params.base + block * (TURNS * WG);
  let furthest = rows[step.first_row + end_row - 1u].z;
  let end = params.base + min(params.count, furthest + 1u - min(params.base, furthest + 1u));
  if (begin >= end || (rows[step.first_row + end_row - 1u].w & KEEPS) == 0u) {
    return;
  }
  let row_quads = (params.num_heads + 2u * params.num_kv_heads) * (HEAD_DIM / 4u);
  let scale = inverseSqrt(f32(HEAD_DIM));

  var total: array<f32, TURNS>;
#for t TURNS
  total[{t}] = 0.0;
#endfor
  for (var row = first_row; row < end_row; row += QUERY_ROWS) {
    let newest = rows[step.first_row + min(row + QUERY_ROWS, end_row) - 1u];
    if (newest.z < begin || (newest.w & KEEPS) == 0u) {
      continue;
    }
#for r QUERY_ROWS
    let row_{r} = min(row + {r}u, end_row - 1u);
    let info_{r} = rows[step.first_row + row_{r}];
    let counts_{r} = row + {r}u < end_row && (info_{r}.w & KEEPS) != 0u;
#endfor
#if SHARED
    workgroupBarrier();
    for (var i = lane; i < QUERY_QUADS; i += WG) {
      let at = min(row + i / ROW_QUADS, end_row - 1u) * row_quads + kv_head * ROW_QUADS;
      query[i] = qkv[at + i % ROW_QUADS] * scale;
    }
    for (var i = lane; i < QUERIES; i += WG) {
      log_sums[i] =
        lse[min(row + i / GROUP, end_row - 1u) * params.num_heads + kv_head * GROUP + i % GROUP];
    }
    workgroupBarrier();
#else
#for r QUERY_ROWS
    for (var i = 0u; i < ROW_QUADS; i += 2u) {
      let at = row_{r} * row_quads + kv_head * ROW_QUADS + i;
      query[{r}u * ROW_QUADS + i] = qkv[at] * scale;
      query[{r}u * ROW_QUADS + i + 1u] = qkv[at + 1u] * scale;
    }
#for g GROUP
    log_sums[{r}u * GROUP + {g}u] = lse[row_{r} * params.num_heads + kv_head * GROUP + {g}u];
#endfor
#endfor
#endif
    for (var turn = 0u; turn < TURNS; turn++) {
      let key = begin + turn * WG + lane;
      let safe = min(key, end - 1u);
#if SOURCE == pages
      let cell = cell_of(pages[table + safe / page_rows], kv_head, safe);
#else
      let cell = cell_of((safe - params.base) / page_rows, kv_head, safe);
#endif
#for r QUERY_ROWS
#for g GROUP
      var dot_{r}_{g} = 0.0;
#endfor
#endfor
#for i HEAD_VEC
      {
        let k = load_key(cell, {i}u);
#for r QUERY_ROWS
#for g GROUP
        {
          let at = {r}u * ROW_QUADS + {g}u * (HEAD_DIM / 4u) + {i}u * 2u;
          dot_{r}_{g} += dot(query[at], k.a) + dot(query[at + 1u], k.b);
        }
#endfor
#endfor
      }
#endfor
      var sum = 0.0;
#for r QUERY_ROWS
      let seen_{r} = counts_{r} && key <= info_{r}.z;
#for g GROUP
      sum += select(0.0, exp(dot_{r}_{g} - log_sums[{r}u * GROUP + {g}u]), seen_{r});
#endfor
#endfor
      total[turn] += sum;
    }
  }
#for t TURNS
  {
    let key = begin + {t}u * WG + lane;
    if (key < end) {
#if TARGET == store
      let page = imp_pages[table + key / page_rows] * params.num_kv_heads + kv_head;
      mass[page * params.importance_quads * 4u + key % page_rows] += total[{t}];
#else
      mass[list * params.mass_stride + key] += total[{t}];
#endif
    }
  }
#endfor
}
