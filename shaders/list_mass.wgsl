// list_mass: adds to each attended key what the heads of its group gave it in this step:
// mass[position] += sum over the group of e^(q . k / sqrt(HEAD_DIM) - lse[head]).
//
// qkv         (rows, heads + 2 kv_heads, HEAD_DIM) vec4f: q, and, where k was, lse of each head from
//             word params.lse_offset of a row on (see attention_merge.wgsl)                     read
// k_cache     (pages, kv_heads, PAGE_SIZE, HEAD_DIM) vec4                                       read
// pages       (slots, max_pages) u32                                                            read
// rows        (rows of the step) vec4u: token, slot, position, bits                             read
// selection   see common/selection.wgsl; every row so far where the slot's are not selected     read
// picked      (slots, kv_heads, list_capacity) u32: positions of the listed rows                read
// mass_pages  (slots, max_pages) u32: pages of the sequence in `mass`                           read
// mass        (pages, kv_heads, MASS_WORDS) f32: row r of a page at word r              read, written
//
// One workgroup: a row of the step x a KV head x params.split_keys keys; a lane has every WG-th key.
// A slot has one row in a step, so no two workgroups meet at a word.
//
// WG: lanes. GROUP: query heads of a KV head. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8, HEAD_QUADS =
// HEAD_DIM / 4. QUERY_QUADS = GROUP * HEAD_QUADS. PAGE_SIZE. MASS_WORDS. KV_TYPE. FORM: lanes keep the
// queries to themselves (lanes) or share them (tiled). KEEPS: bit of the rows whose attention counts.

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> k_cache: array<CACHE_VEC>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4u>;
@group(0) @binding(4) var<storage, read> selection: array<u32>;
@group(0) @binding(5) var<storage, read> picked: array<u32>;
@group(0) @binding(6) var<storage, read> mass_pages: array<u32>;
@group(0) @binding(7) var<storage, read_write> mass: array<f32>;
@group(0) @binding(8) var<uniform> params: MassParams;
@group(0) @binding(9) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/kv_rows.wgsl"
#include "common/slab.wgsl"
#include "common/selected_rows.wgsl"

#if FORM == tiled
var<workgroup> query: array<vec4f, QUERY_QUADS>;
#endif

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let kv_head = index % params.num_kv_heads;
  let split = (index / params.num_kv_heads) % step.num_splits;
  let row = index / (params.num_kv_heads * step.num_splits);
  if (row >= step.num_rows) {
    return;
  }
  let info = rows[step.first_row + row];
  if ((info.w & KEEPS) == 0u) {
    return;
  }
  let slot = info.y;
  let every = info.z + 1u;
  var attended = Attended(every, every, 0u, 0u, every);
  if (is_selected(slot)) {
    attended = attended_of(slot, kv_head, info.z);
  }
  let begin = split * params.split_keys;
  let end = min(begin + params.split_keys, attended.total);
  if (begin >= end) {
    return;
  }
  let table = slot * params.max_pages;
  let list = (slot * params.num_kv_heads + kv_head) * params.list_capacity - attended.prefix;
  let row_quads = (params.num_heads + 2u * params.num_kv_heads) * HEAD_QUADS;
  let base = row * row_quads + kv_head * GROUP * HEAD_QUADS;
  let scale = inverseSqrt(f32(HEAD_DIM));
#if FORM == tiled
  for (var i = lane; i < QUERY_QUADS; i += WG) {
    query[i] = qkv[base + i] * scale;
  }
  workgroupBarrier();
#else
  var query: array<vec4f, QUERY_QUADS>;
#for i QUERY_QUADS
  query[{i}] = qkv[base + {i}u] * scale;
#endfor
#endif
#for g GROUP
  let word_{g} = params.lse_offset + kv_head * GROUP + {g}u;
  let lse_{g} = qkv[row * row_quads + word_{g} / 4u][word_{g} % 4u];
#endfor

  for (var key = begin + lane; key < end; key += WG) {
    let cell = cell_of_row(row_of_key(attended, table, key), kv_head);
#for g GROUP
    var dot_{g} = 0.0;
#endfor
#for i HEAD_VEC
    {
      let k = load_key(cell, {i}u);
#for g GROUP
      dot_{g} += dot(query[{g} * HEAD_QUADS + {i} * 2], k.a) +
        dot(query[{g} * HEAD_QUADS + {i} * 2 + 1], k.b);
#endfor
    }
#endfor
    var sum = 0.0;
#for g GROUP
    sum += exp(dot_{g} - lse_{g});
#endfor
    var position = key + select(0u, attended.shift, key >= attended.before);
    if (key >= attended.prefix && key < attended.before) {
      position = picked[list + key];
    }
    let page = mass_pages[table + position / PAGE_SIZE] * params.num_kv_heads + kv_head;
    mass[page * MASS_WORDS + position % PAGE_SIZE] += sum;
  }
}
