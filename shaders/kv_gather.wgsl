// kv_gather: the inverse of kv_scatter.wgsl: packs rows of the slabs one after the other.
//
// packed   (rows, 2, HEAD_DIM): keys, then values of a row, as the cache holds them, in vec4u    written
// places   (rows) vec2u: row of the slab, KV head                                                read
// k_cache, v_cache  (pages, kv_heads, PAGE_SIZE, HEAD_DIM) in vec4u                              read
//
// Rows step.first_row .. step.first_row + step.num_rows - 1 of packed and places are dealt with; a
// place whose row is 0xffffffff is passed over.
//
// Workgroups and names in capitals: see kv_scatter.wgsl.

@group(0) @binding(0) var<storage, read_write> packed: array<vec4u>;
@group(0) @binding(1) var<storage, read> places: array<vec2u>;
@group(0) @binding(2) var<storage, read> k_cache: array<vec4u>;
@group(0) @binding(3) var<storage, read> v_cache: array<vec4u>;
@group(0) @binding(4) var<uniform> params: KvCopyParams;
@group(0) @binding(5) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/slab.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count) * ROWS_PER_GROUP + lane / PARTS;
  if (index >= step.num_rows) {
    return;
  }
  let row = step.first_row + index;
  let place = places[row];
  if (place.x == 0xffffffffu) {
    return;
  }
  let start = row * 2u * ROW_VECS + lane % PARTS;
  let cell = cell_of_row(place.x, place.y) / VEC_VALUES + lane % PARTS;
#for i TURNS
  packed[start + {i}u * PARTS] = k_cache[cell + {i}u * PARTS];
  packed[start + ROW_VECS + {i}u * PARTS] = v_cache[cell + {i}u * PARTS];
#endfor
}
