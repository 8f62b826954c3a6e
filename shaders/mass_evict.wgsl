// mass_evict: marks the candidates that were not picked, so that they never are again.
//
// picked        (slots, kv_heads, list_capacity) u32: positions, ascending              read
// picked_count  (slots, kv_heads) u32                                                   read
// imp_pages     (slots, max_pages) u32                                                  read
// rows          (rows of the step) vec4u: token, slot, position, 0                      read
// recipes       (slots, recipe_stride) u32                                              read
// mass          (pages, kv_heads, importance_quads) vec4u, seen as f32: row r at r      read, written
//
// A lane has TURNS candidates; index of the workgroup = (block * rows + row) * kv_heads + kv_head.
//
// WG: lanes. TURNS. MODE: number of the mode that the kernel works for. EVICTED: what marks. UNIT: rows.

@group(0) @binding(0) var<storage, read> picked: array<u32>;
@group(0) @binding(1) var<storage, read> picked_count: array<u32>;
@group(0) @binding(2) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4u>;
@group(0) @binding(4) var<storage, read> recipes: array<u32>;
@group(0) @binding(5) var<storage, read_write> mass: array<f32>;
@group(0) @binding(6) var<uniform> params: ListParams;
@group(0) @binding(7) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/candidates.wgsl"

const page_rows = 32u;

// Index of the first of `count` positions that is not below `position`.
fn find(start: u32, count: u32, position: u32) -> u32 {
  var low = 0u;
  var high = count;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (picked[start + middle] < position) {
      low = middle + 1u;
    } else {
      high = middle;
    }
  }
  return low;
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
  let begin = range.x + block * (TURNS * WG) + lane;
  if (mode_of(info.y) != MODE || begin >= range.y) {
    return;
  }
  let list = info.y * params.num_kv_heads + kv_head;
  let start = list * params.list_capacity;
  let held = picked_count[list];
  let end = min(range.y, begin + TURNS * WG);
  for (var position = begin; position < end; position += WG) {
    let place = info.y * params.max_pages + position / page_rows;
    let page = imp_pages[place] * params.num_kv_heads + kv_head;
    let at = page * params.importance_quads * 4u + position % page_rows;
    if (mass[at] > EVICTED) {
      let found = find(start, held, position);
      if (found >= held || picked[start + min(found, max(held, 1u) - 1u)] != position) {
        mass[at] = EVICTED;
      }
    }
  }
}
