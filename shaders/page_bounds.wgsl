// page_bounds: smallest and largest value, in each dimension, of the keys of the sixteen positions
// that share a sub-page with a row, up to the row.
//
// k_cache     (pages, kv_heads, 32, HEAD_DIM) words: f16 pairs or f32                  read
// pages       (slots, max_pages) u32: page of the cache                               read
// rows        (rows of the step) vec4u: token, slot, position, 0                      read
// imp_pages   (slots, max_pages) u32: page of the importance store                    read
// importance  (pages, kv_heads, importance_quads) vec4u, seen as words: minima and maxima of the
//             first sixteen rows, then of the others, in the type of the cache        written
//
// One workgroup a row and KV head, lanes along the head dimension. Of neighbouring rows of a sub-page
// only the last one works.
//
// WG: lanes. KV_TYPE. HEAD_WORDS: words of a row.

@group(0) @binding(0) var<storage, read> k_cache: array<u32>;
@group(0) @binding(1) var<storage, read> pages: array<u32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4u>;
@group(0) @binding(3) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(4) var<storage, read_write> importance: array<u32>;
@group(0) @binding(5) var<uniform> params: ListParams;
@group(0) @binding(6) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"

const page_rows = 32u;
const sub_page = 16u;

#if KV_TYPE == f16
fn values_of(word: u32) -> vec2f {
  return unpack2x16float(word);
}

fn word_of(values: vec2f) -> u32 {
  return pack2x16float(values);
}
#else
fn values_of(word: u32) -> vec2f {
  return vec2f(bitcast<f32>(word));
}

fn word_of(values: vec2f) -> u32 {
  return bitcast<u32>(values.x);
}
#endif

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let row = index / params.num_kv_heads;
  let kv_head = index % params.num_kv_heads;
  if (row >= step.num_rows) {
    return;
  }
  let info = rows[step.first_row + row];
  if (row + 1u < step.num_rows) {
    let next = rows[step.first_row + row + 1u];
    if (next.y == info.y && next.z > info.z && next.z / sub_page == info.z / sub_page) {
      return;
    }
  }
  let place = info.y * params.max_pages + info.z / page_rows;
  let in_page = info.z % page_rows;
  let sub = in_page / sub_page;
  let first = ((pages[place] * params.num_kv_heads + kv_head) * page_rows + sub * sub_page) *
    HEAD_WORDS;
  let out = (imp_pages[place] * params.num_kv_heads + kv_head) * params.importance_quads * 4u +
    sub * 2u * HEAD_WORDS;
  for (var d = lane; d < HEAD_WORDS; d += WG) {
    var low = values_of(k_cache[first + d]);
    var high = low;
    for (var i = 1u; i <= in_page % sub_page; i++) {
      let values = values_of(k_cache[first + i * HEAD_WORDS + d]);
      low = min(low, values);
      high = max(high, values);
    }
    importance[out + d] = word_of(low);
    importance[out + HEAD_WORDS + d] = word_of(high);
  }
}
