// neighbours: the rows that follow runs of chosen rows. A run of c neighbouring positions a .. a + c - 1
// brings a + c .. a + 2 c - 1 too, as far as there are candidates; what is left of twice the budget is
// filled with the positions after the last one. (TokenButler, arXiv 2503.07518: neighbour fetching.)
//
// rows       (rows of the step) vec4u: token, slot, position, 0                          read
// recipes    (slots, recipe_stride) u32; bit 0 of word 3: the slot wants neighbours;     read
//            PICKS_ONLY: its selection stays as it is
// pages      (slots, max_pages) u32: page of the cache                                   read
// scratch    (rows, kv_heads, 2, score_stride) u32                                       written
// picked     (slots, kv_heads, list_capacity) u32: positions, ascending                  read, written
// picked_count  (slots, kv_heads) u32                                                    read, written
// selection  (slots, selection_stride) u32, see common/selection.wgsl                    written
//
// One workgroup a list. Runs follow each other, so one lane makes the list, from items that all lanes
// have fetched; that happens once an interval. Positions become rows of the slab by all lanes.
//
// WG: lanes. PAGES_MODE: mode of recipes whose lists are of pages. PICKS_ONLY: bit of a recipe.

@group(0) @binding(0) var<storage, read> rows: array<vec4u>;
@group(0) @binding(1) var<storage, read> recipes: array<u32>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<storage, read_write> scratch: array<u32>;
@group(0) @binding(4) var<storage, read_write> picked: array<u32>;
@group(0) @binding(5) var<storage, read_write> picked_count: array<u32>;
@group(0) @binding(6) var<storage, read_write> selection: array<u32>;
@group(0) @binding(7) var<uniform> params: ListParams;
@group(0) @binding(8) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"

const page_rows = 32u;

// Items that are looked at together: one lane reads them, and from memory of its own that is quick.
const tile_items = 1024u;

var<workgroup> made: u32;
var<workgroup> staged: array<u32, 1024>;

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
  let recipe = info.y * params.recipe_stride;
  let mode = recipes[recipe];
  if (mode == 0u || mode == PAGES_MODE || (recipes[recipe + 3u] & 1u) == 0u) {
    return;
  }
  let rows_so_far = info.z + 1u;
  let end = rows_so_far - min(recipes[recipe + 2u], rows_so_far);
  let kept = info.y * params.num_kv_heads + kv_head;
  let list = kept * params.list_capacity;
  let old = index * params.score_stride * 2u;
  let size = picked_count[kept];
  for (var i = lane; i < size; i += WG) {
    scratch[old + i] = picked[list + i];
  }
  storageBarrier();
  workgroupBarrier();
  if (lane == 0u) {
    made = size + 1u;
  }
  let most = min(2u * recipes[recipe + 4u + kv_head], params.list_capacity);
  var next = recipes[recipe + 1u];
  var put = 0u;
  var first = 0u;
  var run = 0u;
  // What follows the last item ends its run.
  let items = workgroupUniformLoad(&made);
  for (var tile = 0u; tile < items; tile += tile_items) {
    for (var i = lane; i < tile_items; i += WG) {
      staged[i] = select(0xffffffffu, scratch[old + min(tile + i, size)], tile + i < size);
    }
    workgroupBarrier();
    if (lane == 0u) {
      let count = min(tile_items, items - tile);
      for (var i = 0u; i < count; i++) {
        let position = staged[i];
        if (position == first + run && run > 0u) {
          run++;
          continue;
        }
        if (run > 0u) {
          let stop = min(first + 2u * run, end);
          for (var at = max(first, next); at < stop && put < most; at++) {
            picked[list + put] = at;
            put++;
          }
          next = max(next, stop);
        }
        first = position;
        run = 1u;
      }
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    while (put < most && next < end) {
      picked[list + put] = next;
      put++;
      next++;
    }
    picked_count[kept] = put;
    made = put;
  }
  storageBarrier();
  let length = workgroupUniformLoad(&made);
  if ((recipes[recipe + 3u] & PICKS_ONLY) != 0u) {
    return;
  }
  let header = info.y * params.selection_stride;
  if (lane == 0u) {
    selection[header + 4u + kv_head] = length;
  }
  let rows_at = header + params.recipe_stride + kv_head * params.list_capacity;
  for (var i = lane; i < length; i += WG) {
    let position = picked[list + i];
    let page = pages[info.y * params.max_pages + position / page_rows];
    selection[rows_at + i] = page * page_rows + position % page_rows;
  }
}
