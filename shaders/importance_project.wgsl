// importance_project: the 16 values that a row is scored by: its key, after rotation, times the matrix
// of its KV head, into the importance store; with QUERIES also each query head's query, times the same
// matrix, for this step.
//
// k_cache      (pages, kv_heads, 32, HEAD_DIM) vec4                        read
// pages        (slots, max_pages) u32: page of the cache                   read
// rows         (rows of the step) vec4u: token, slot, position, bits       read
// matrix       (kv_heads, HEAD_DIM, 16) f32                                read
// imp_pages    (slots, max_pages) u32: page of the importance store        read
// importance   (pages, kv_heads, importance_quads) vec4u                   written
//              KEYS f16: 16 f16 a row, seen as vec2u
//              KEYS int8: 16 bytes a row, then the f32 scale of each row, seen as u32: a value is
//              (byte - 128) times the scale
// qkv          (rows, heads + 2 kv_heads, HEAD_DIM) f32                    read, with QUERIES
// imp_queries  (rows, heads, 16) f32                                       written, with QUERIES
//
// KEYS f16: four lanes a head of a row, four values each; int8: one lane, which sees the largest value.
// KV heads of a row first, then query heads.
//
// WG: lanes, a multiple of 4. GROUP: query heads of a KV head. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8.
// KV_TYPE. CACHE_VEC. QUERIES. KEEPS: bit of the rows whose key is kept. KEYS. STORE: what the store is
// seen as. LANES_A_HEAD. COLUMNS: vec4s of a lane.

@group(0) @binding(0) var<storage, read> k_cache: array<CACHE_VEC>;
@group(0) @binding(1) var<storage, read> pages: array<u32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4u>;
@group(0) @binding(3) var<storage, read> matrix: array<vec4f>;
@group(0) @binding(4) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(5) var<storage, read_write> importance: array<STORE>;
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
  let unit = workgroup_index(id, count) * (WG / LANES_A_HEAD) + lane / LANES_A_HEAD;
  let row = unit / heads;
  let head = unit % heads;
  let column = lane % LANES_A_HEAD;
  if (row >= step.num_rows) {
    return;
  }
#for c COLUMNS
  var sum_{c} = vec4f(0.0);
#endfor
  if (head < params.num_kv_heads) {
    let info = rows[step.first_row + row];
    if ((info.w & KEEPS) == 0u) {
      return;
    }
    let place = info.y * params.max_pages + info.z / page_rows;
    let cell = cell_of(pages[place], head, info.z);
    let start = head * (HEAD_DIM * 4u) + column;
    for (var i = 0u; i < HEAD_VEC; i++) {
      let k = load_key(cell, i);
#for c COLUMNS
      sum_{c} += product(k, start + {c}u + i * 32u);
#endfor
    }
    let page = imp_pages[place] * params.num_kv_heads + head;
    let in_page = info.z % page_rows;
#if KEYS == int8
    var most = vec4f(0.0);
#for c COLUMNS
    most = max(most, abs(sum_{c}));
#endfor
    let largest = max(max(most.x, most.y), max(most.z, most.w));
    // So small that its inverse could be no number: all are 0.
    let scale = select(0.0, largest / 127.0, largest > 1e-30);
    let factor = select(0.0, 1.0 / scale, scale > 0.0);
    let first = page * params.importance_quads * 4u;
#for c COLUMNS
    let byte_{c} = vec4u(clamp(sum_{c} * factor + 128.5, vec4f(1.0), vec4f(255.0)));
    importance[first + in_page * 4u + {c}u] =
      byte_{c}.x | (byte_{c}.y << 8u) | (byte_{c}.z << 16u) | (byte_{c}.w << 24u);
#endfor
    importance[first + page_rows * 4u + in_page] = bitcast<u32>(scale);
#else
    importance[page * params.importance_quads * 2u + in_page * 4u + column] =
      vec2u(pack2x16float(sum_0.xy), pack2x16float(sum_0.zw));
#endif
    return;
  }
#if QUERIES
  let query = head - params.num_kv_heads;
  let at = (row * (params.num_heads + 2u * params.num_kv_heads) + query) * (HEAD_DIM / 4u);
  let start = query / GROUP * (HEAD_DIM * 4u) + column;
  for (var i = 0u; i < HEAD_VEC; i++) {
    let q = Eight(qkv[at + i * 2u], qkv[at + i * 2u + 1u]);
#for c COLUMNS
    sum_{c} += product(q, start + {c}u + i * 32u);
#endfor
  }
#for c COLUMNS
  imp_queries[(row * params.num_heads + query) * 4u + column + {c}u] = sum_{c};
#endfor
#endif
}
