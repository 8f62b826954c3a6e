// importance_project: the 16 values that a row is scored by: its key, after rotation, times the matrix
// of its KV head, as f16 into the importance store; with QUERIES also each query head's query, times
// the same matrix, for this step.
//
// k_cache      (pages, kv_heads, 32, HEAD_DIM) vec4                        read
// pages        (slots, max_pages) u32: page of the cache                   read
// rows         (rows of the step) vec4u: token, slot, position, 0          read
// matrix       (kv_heads, HEAD_DIM, 16) f32                                read
// imp_pages    (slots, max_pages) u32: page of the importance store        read
// importance   (pages, kv_heads, importance_quads) vec4u, seen as vec2u: 16 f16 a row    written
// qkv          (rows, heads + 2 kv_heads, HEAD_DIM) f32                    read, with QUERIES
// imp_queries  (rows, heads, 16) f32                                       written, with QUERIES
//
// Four lanes a head of a row, four values each: KV heads of a row first, then query heads.
//
// WG: lanes, a multiple of 4. GROUP: query heads of a KV head. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8.
// KV_TYPE. CACHE_VEC. QUERIES.

@group(0) @binding(0) var<storage, read> k_cache: array<CACHE_VEC>;
@group(0) @binding(1) var<storage, read> pages: array<u32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4u>;
@group(0) @binding(3) var<storage, read> matrix: array<vec4f>;
@group(0) @binding(4) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(5) var<storage, read_write> importance: array<vec2u>;
#if QUERIES
@group(0) @binding(6) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> imp_queries: array<vec4f>;
@group(0) @binding(8) var<uniform> params: ListParams;
@group(0) @binding(9) var<uniform> step: StepParams;
#else
@group(0) @binding(6) var<uniform> params: ListParams;
@group(0) @binding(7) var<uniform> step: StepParams;
#endif

#include "common/dispatch.wgsl"
#include "common/kv_rows.wgsl"
#include "common/list_keys.wgsl"

// Eight values times eight rows of the matrix, of which this lane has one column of vec4s.
fn product(k: Eight, at: u32) -> vec4f {
  return k.a.x * matrix[at] + k.a.y * matrix[at + 4u] +
    k.a.z * matrix[at + 8u] + k.a.w * matrix[at + 12u] +
    k.b.x * matrix[at + 16u] + k.b.y * matrix[at + 20u] +
    k.b.z * matrix[at + 24u] + k.b.w * matrix[at + 28u];
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
#if QUERIES
  let heads = params.num_kv_heads + params.num_heads;
#else
  let heads = params.num_kv_heads;
#endif
  let unit = workgroup_index(id, count) * (WG / 4u) + lane / 4u;
  let row = unit / heads;
  let head = unit % heads;
  let column = lane % 4u;
  if (row >= step.num_rows) {
    return;
  }
  var sum = vec4f(0.0);
  if (head < params.num_kv_heads) {
    let info = rows[step.first_row + row];
    let place = info.y * params.max_pages + info.z / page_rows;
    let cell = cell_of(pages[place], head, info.z);
    let start = head * (HEAD_DIM * 4u) + column;
    for (var i = 0u; i < HEAD_VEC; i++) {
      sum += product(load_key(cell, i), start + i * 32u);
    }
    let page = imp_pages[place] * params.num_kv_heads + head;
    importance[page * params.importance_quads * 2u + info.z % page_rows * 4u + column] =
      vec2u(pack2x16float(sum.xy), pack2x16float(sum.zw));
    return;
  }
#if QUERIES
  let query = head - params.num_kv_heads;
  let at = (row * (params.num_heads + 2u * params.num_kv_heads) + query) * (HEAD_DIM / 4u);
  let start = query / GROUP * (HEAD_DIM * 4u) + column;
  for (var i = 0u; i < HEAD_VEC; i++) {
    sum += product(Eight(qkv[at + i * 2u], qkv[at + i * 2u + 1u]), start + i * 32u);
  }
  imp_queries[(row * params.num_heads + query) * 4u + column] = sum;
#endif
}
