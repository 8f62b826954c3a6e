// select: of each list of scores the best `budget` candidates, exactly; of equal scores the older.
//
// scores     (rows, kv_heads, score_stride): f32 scores, then the largest key of each eight   read
// rows       (rows of the step) vec4u: token, slot, position, 0                               read
// recipes    (slots, recipe_stride) u32; PICKS_ONLY in word 3: the selection stays as it is   read
// pages      (slots, max_pages) u32: page of the cache                                        read
// scratch    (rows, kv_heads, 2, score_stride) u32                                            written
// picked     (slots, kv_heads, list_capacity) u32: positions, ascending                       written
// picked_count  (slots, kv_heads) u32                                                         written
// selection  (slots, selection_stride) u32: mode, prefix, window start, window rows, a count for
//            each KV head, then lists of device rows                                          written
//
// One workgroup a list. Let n be the budget. The n-th largest of the maxima of eights (or, of many,
// of the maxima of four eights each) is a bound that at least n candidates reach, and few more
// usually; so a radix search over these maxima, good to 16 bits, then a look at the eights that reach
// it, leave a short list of survivors. A radix search over their full keys finds the n-th largest
// score. Nothing is assumed of the data: at worst everything survives.
// Each lane has one stretch of the survivors, in order, which keeps the result in order.
//
// WG: lanes, a power of two up to 256. BINS_A_LANE = 256 / WG. UNIT: rows | pages. PAGES_MODE: number of
// the mode of pages. PICKS_ONLY: bit of a recipe. UNROLL: survivors a
// lane looks at in one turn, for speed and for adapters that end every loop after so many turns.

@group(0) @binding(0) var<storage, read> scores: array<vec4u>;
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
@group(0) @binding(2) var<storage, read> recipes: array<u32>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read_write> scratch: array<u32>;
@group(0) @binding(5) var<storage, read_write> picked: array<u32>;
@group(0) @binding(6) var<storage, read_write> picked_count: array<u32>;
@group(0) @binding(7) var<storage, read_write> selection: array<u32>;
@group(0) @binding(8) var<uniform> params: ListParams;
@group(0) @binding(9) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/candidates.wgsl"
#include "common/score_keys.wgsl"
#include "common/radix.wgsl"

const page_rows = 32u;
#if UNIT == pages
const item_rows = sub_page;
#else
const item_rows = 1u;
#endif

// Of the list that the workgroup is at.
var<private> scores_at: u32;
var<private> range: vec2u;
var<private> table: u32;
var<private> picked_at: u32;
var<private> selected_at: u32;
// Whether what is picked is used from now on.
var<private> selects: bool;

// Four candidates of an eight; 0 for what is none.
fn quad_keys(index: u32) -> vec4u {
  let indices = vec4u(index) + vec4u(0u, 1u, 2u, 3u);
  let within = (indices >= vec4u(range.x)) & (indices < vec4u(range.y));
  return select(vec4u(0u), keys_of(scores[(scores_at + index) / 4u]), within);
}

// Device rows of the result, and with pages the rows of each; all lanes have put their items.
fn finish(lane: u32, wanted: u32) {
  storageBarrier();
  workgroupBarrier();
  for (var i = lane; i < wanted; i += WG) {
    let item = picked[picked_at + i * item_rows];
#if UNIT == pages
#for j 16
    put_row(i * sub_page + {j}u, item * sub_page + {j}u);
#endfor
#else
    put_row(i, item);
#endif
  }
}

fn put_row(index: u32, position: u32) {
#if UNIT == pages
  picked[picked_at + index] = position;
#endif
  if (selects) {
    selection[selected_at + index] =
      pages[table + position / page_rows] * page_rows + position % page_rows;
  }
}

// A bound that at least `wanted` candidates reach; 1 if the maxima give none.
fn bound_of(lane: u32, wanted: u32) -> u32 {
  let first = range.x / page_rows;
  let quads = (range.y + page_rows - 1u) / page_rows - first;
  let start = (scores_at + params.maxima_at) / 4u + first;
  let coarse = quads >= 2u * wanted;
  if (!coarse && quads * 4u <= wanted) {
    return 1u;
  }
  for (var i = lane; i < quads; i += WG) {
    let keys = scores[start + i];
    if (coarse) {
      atomicAdd(&bins[largest_of(keys) >> 24u], 1u);
    } else {
#for j 4
      atomicAdd(&bins[keys[{j}] >> 24u], 1u);
#endfor
    }
  }
  let high = find_bin(lane, wanted);
  for (var i = lane; i < quads; i += WG) {
    let keys = scores[start + i];
    if (coarse) {
      let key = largest_of(keys);
      if (key >> 24u == high.x) {
        atomicAdd(&bins[key >> 16u & 255u], 1u);
      }
    } else {
#for j 4
      if (keys[{j}] >> 24u == high.x) {
        atomicAdd(&bins[keys[{j}] >> 16u & 255u], 1u);
      }
#endfor
    }
  }
  let low = find_bin(lane, wanted - high.y);
  return max(1u, (high.x << 24u) | (low.x << 16u));
}

// Lists the eights that reach the bound, in order, at `hot`; returns how many.
fn list_eights(lane: u32, bound: u32, hot: u32) -> u32 {
  let first = range.x / page_rows;
  let quads = (range.y + page_rows - 1u) / page_rows - first;
  let start = (scores_at + params.maxima_at) / 4u;
  let share = (quads + WG - 1u) / WG;
  let begin = first + min(lane * share, quads);
  let end = first + min(lane * share + share, quads);
  var count = vec4u(0u);
  for (var i = begin; i < end; i++) {
    count += select(vec4u(0u), vec4u(1u), scores[start + i] >= vec4u(bound));
  }
  let sums = scan(lane, vec2u(count.x + count.y + count.z + count.w, 0u));
  var next = hot + sums.before.x;
  for (var i = begin; i < end; i++) {
    let keys = scores[start + i];
#for j 4
    if (keys[{j}] >= bound) {
      scratch[next] = i * 4u + {j}u;
      next++;
    }
#endfor
  }
  storageBarrier();
  workgroupBarrier();
  return sums.total.x;
}

fn pick(lane: u32, wanted: u32, scratch_at: u32) {
  let bound = bound_of(lane, wanted);
  let hot = scratch_at + params.maxima_at;
  let eights = list_eights(lane, bound, hot);

  // This lane's stretch of the eights leaves its survivors behind each other, from `mine` on, and
  // their keys from `keys` on.
  let share = (eights + WG - 1u) / WG;
  let begin = min(lane * share, eights);
  let end = min(begin + share, eights);
  let mine = scratch_at + begin * 8u;
  let keys = mine + params.score_stride;
  var size = 0u;
  var low = 0xffffffffu;
  var high = 0u;
  for (var i = begin; i < end; i++) {
    let index = scratch[hot + i] * 8u;
#for q 2
    let keys_{q} = quad_keys(index + {q}u * 4u);
    high = max(high, largest_of(keys_{q}));
#for j 4
    if (keys_{q}[{j}] >= bound) {
      scratch[mine + size] = index + {q}u * 4u + {j}u;
      scratch[keys + size] = keys_{q}[{j}];
      low = min(low, keys_{q}[{j}]);
      size++;
    }
#endfor
#endfor
  }
  let ends = reach(lane, vec2u(low, high));

  // With keys counted from the lowest: the wanted-th largest agrees with `prefix` in the bits of
  // `mask`; of those that do, `left` are still wanted.
  var prefix = 0u;
  var mask = 0u;
  var left = wanted;
  var shift = 32u - min(24u, countLeadingZeros(ends.y - ends.x));
  for (var round = 0u; round < 4u; round++) {
    shift -= min(shift, 8u);
    for (var i = 0u; i < size; i += UNROLL) {
#for u UNROLL
      let key_{u} = scratch[keys + min(i + {u}u, size - 1u)] - ends.x;
#endfor
#for u UNROLL
      if (i + {u}u < size && (key_{u} & mask) == prefix) {
        atomicAdd(&bins[key_{u} >> shift & 255u], 1u);
      }
#endfor
    }
    let bin = find_bin(lane, left);
    prefix = (prefix & ~(255u << shift)) | (bin.x << shift);
    mask = 0xffffffffu << shift;
    left -= bin.y;
    if (bin.z == left || shift == 0u) {
      break;
    }
  }

  var above = 0u;
  var equal = 0u;
  for (var i = 0u; i < size; i += UNROLL) {
#for u UNROLL
    let key_{u} = (scratch[keys + min(i + {u}u, size - 1u)] - ends.x) & mask;
    above += select(0u, 1u, i + {u}u < size && key_{u} > prefix);
    equal += select(0u, 1u, i + {u}u < size && key_{u} == prefix);
#endfor
  }
  let before = scan(lane, vec2u(above, equal)).before;
  var next = before.x + min(before.y, left);
  var ties = left - min(before.y, left);
  for (var i = 0u; i < size; i += UNROLL) {
#for u UNROLL
    {
      let at = min(i + {u}u, size - 1u);
      let key = (scratch[keys + at] - ends.x) & mask;
      let tied = key == prefix && ties > 0u;
      if (i + {u}u < size && (key > prefix || tied)) {
        picked[picked_at + next * item_rows] = scratch[mine + at];
        next++;
        ties -= select(0u, 1u, tied);
      }
    }
#endfor
  }
}

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
  let mode = mode_of(info.y);
#if UNIT == pages
  if (mode != PAGES_MODE) {
    return;
  }
#else
  if (mode == 0u || mode == PAGES_MODE) {
    return;
  }
#endif
  selects = (recipes[recipe + 3u] & PICKS_ONLY) == 0u;
  let rows_so_far = info.z + 1u;
  range = candidates_of(info.y, info.z);
  table = info.y * params.max_pages;
  let kept = info.y * params.num_kv_heads + kv_head;
  picked_at = kept * params.list_capacity;
  scores_at = index * params.score_stride;
  let header = info.y * params.selection_stride;
  selected_at = header + params.recipe_stride + kv_head * params.list_capacity;

#if UNIT == pages
  let window_start = range.y * sub_page;
#else
  let window_rows = min(recipes[recipe + 2u], rows_so_far);
  let window_start = max(min(range.x, rows_so_far), rows_so_far - window_rows);
#endif
  let candidates = range.y - range.x;
  let budget = min(recipes[recipe + 4u + kv_head], params.list_capacity / item_rows);
  let wanted = min(budget, candidates);
  if (lane == 0u) {
    if (selects && kv_head == 0u) {
      selection[header] = 1u;
      selection[header + 1u] = min(range.x * item_rows, rows_so_far);
      selection[header + 2u] = window_start;
      selection[header + 3u] = recipes[recipe + 2u];
    }
    if (selects) {
      selection[header + 4u + kv_head] = wanted * item_rows;
    }
    picked_count[kept] = wanted * item_rows;
  }
  if (wanted == candidates) {
    for (var i = lane; i < candidates; i += WG) {
      picked[picked_at + i * item_rows] = range.x + i;
    }
  } else if (wanted > 0u) {
    pick(lane, wanted, index * params.score_stride * 2u);
  }
  finish(lane, wanted);
}
