// kv_scatter: puts rows of keys and values that were fetched into their places in the slabs.
//
// source   (rows, 2, HEAD_DIM): keys, then values of a row, as the cache holds them, in vec4u    read
// targets  (rows) vec2u: row of the slab, KV head                                                read
// k_cache, v_cache  (pages, kv_heads, PAGE_SIZE, HEAD_DIM) in vec4u                              written
//
// Rows step.first_row .. step.first_row + step.num_rows - 1 of source and targets are dealt with; a
// target whose row is 0xffffffff is passed over. No two targets may be the same.
//
// One workgroup: ROWS_PER_GROUP rows, each by PARTS lanes, which take every PARTS-th vec4u of it.
//
// WG = ROWS_PER_GROUP * PARTS. PAGE_SIZE, HEAD_DIM. ROW_VECS: vec4u of a row's keys. VEC_VALUES: values
// in a vec4u. TURNS = ROW_VECS / PARTS.

@group(0) @binding(0) var<storage, read> source: array<vec4u>;
@group(0) @binding(1) var<storage, read> targets: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> k_cache: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> v_cache: array<vec4u>;
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
  let place = targets[row];
  if (place.x == 0xffffffffu) {
    return;
  }
  let packed = row * 2u * ROW_VECS + lane % PARTS;
  let cell = cell_of_row(place.x, place.y) / VEC_VALUES + lane % PARTS;
#for i TURNS
  k_cache[cell + {i}u * PARTS] = source[packed + {i}u * PARTS];
  v_cache[cell + {i}u * PARTS] = source[packed + ROW_VECS + {i}u * PARTS];
#endfor
}
