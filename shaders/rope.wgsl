// rope: q and k of each head normalised (with QK_NORM) and rotated by their position; q stays where
// it is, k and v go to the cache.
//
// qkv      (rows, heads + 2 kv_heads, HEAD_DIM) f32          read, q written
// rows     (rows of the step) vec4u: token, slot, position, 0   read
// angles   (rows of the step, rotary / 2) vec2f: cos, sin       read
// pages    (slots, max_pages) u32: page of the cache            read
// k_cache, v_cache  (pages, kv_heads, PAGE_SIZE, HEAD_DIM), f16 pairs in u32 or f32    written
// gains    (2, HEAD_DIM) f32: q gain, k gain; only with QK_NORM   read
//
// One workgroup a head of a row: heads of q first, then k, then v.
//
// WG: lanes. HEAD_DIM. PAGE_SIZE: rows of a page. PAIRING: half | adjacent. KV_TYPE: f16 | f32.
// QK_NORM. SUBGROUPS: see common/reduce.wgsl.

@group(0) @binding(0) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
@group(0) @binding(2) var<storage, read> angles: array<vec2f>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read_write> k_cache: array<CACHE_WORD>;
@group(0) @binding(5) var<storage, read_write> v_cache: array<CACHE_WORD>;
#if QK_NORM
@group(0) @binding(6) var<storage, read> gains: array<f32>;
@group(0) @binding(7) var<uniform> params: RopeParams;
@group(0) @binding(8) var<uniform> step: StepParams;
#else
@group(0) @binding(6) var<uniform> params: RopeParams;
@group(0) @binding(7) var<uniform> step: StepParams;
#endif

#include "common/dispatch.wgsl"
#include "common/reduce.wgsl"

var<workgroup> head_values: array<f32, HEAD_DIM>;

fn rotated(d: u32, row: u32) -> f32 {
  let value = head_values[d];
  if (d >= params.rotary) {
    return value;
  }
#if PAIRING == half
  let half = params.rotary / 2u;
  let turn = angles[(step.first_row + row) * half + (d % half)];
  if (d < half) {
    return value * turn.x - head_values[d + half] * turn.y;
  }
  return value * turn.x + head_values[d - half] * turn.y;
#else
  let turn = angles[(step.first_row + row) * (params.rotary / 2u) + d / 2u];
  if ((d & 1u) == 0u) {
    return value * turn.x - head_values[d + 1u] * turn.y;
  }
  return value * turn.x + head_values[d - 1u] * turn.y;
#endif
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let heads = params.num_heads + 2u * params.num_kv_heads;
  let index = workgroup_index(id, count);
  let row = index / heads;
  let head = index % heads;
  if (row >= step.num_rows) {
    return;
  }
  let base = index * HEAD_DIM;
  let is_q = head < params.num_heads;
  let is_v = head >= params.num_heads + params.num_kv_heads;
  var sum = 0.0;
  for (var d = lane; d < HEAD_DIM; d += WG) {
    let value = qkv[base + d];
    sum += value * value;
    head_values[d] = value;
  }
#if QK_NORM
  let scale = inverseSqrt(reduce_sum(sum, lane) / f32(HEAD_DIM) + params.eps);
  if (!is_v) {
    for (var d = lane; d < HEAD_DIM; d += WG) {
      head_values[d] *= scale * gains[select(HEAD_DIM, 0u, is_q) + d];
    }
  }
#endif
  workgroupBarrier();

  let info = rows[step.first_row + row];
  let page = pages[info.y * params.max_pages + info.z / PAGE_SIZE];
  let kv_head = (head - params.num_heads) % params.num_kv_heads;
  let cell = ((page * params.num_kv_heads + kv_head) * PAGE_SIZE + info.z % PAGE_SIZE) * HEAD_DIM;
  for (var d = lane * 2u; d < HEAD_DIM; d += WG * 2u) {
    if (is_v) {
#if KV_TYPE == f16
      v_cache[(cell + d) / 2u] = pack2x16float(vec2f(head_values[d], head_values[d + 1u]));
#else
      v_cache[cell + d] = head_values[d];
      v_cache[cell + d + 1u] = head_values[d + 1u];
#endif
    } else {
      let a = rotated(d, row);
      let b = rotated(d + 1u, row);
      if (is_q) {
        qkv[base + d] = a;
        qkv[base + d + 1u] = b;
      } else {
#if KV_TYPE == f16
        k_cache[(cell + d) / 2u] = pack2x16float(vec2f(a, b));
#else
        k_cache[cell + d] = a;
        k_cache[cell + d + 1u] = b;
#endif
      }
    }
  }
}
