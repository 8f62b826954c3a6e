// attention: out[row, head] = softmax(q . k / sqrt(HEAD_DIM)) v over the cached rows up to the
// row's own position, causal, with an online softmax; or over the rows that were selected for it.
//
// qkv       (rows, heads + 2 kv_heads, HEAD_DIM) vec4f; q is read      read
// k_cache, v_cache  (pages, kv_heads, PAGE_SIZE, HEAD_DIM) vec4        read
// pages     (slots, max_pages) u32                                     read
// rows      (rows of the step) vec4u: token, slot, position, 0         read
// out       (rows, heads, HEAD_DIM) f32                                written by rows with one split
// partial   (rows, heads, max_splits, HEAD_DIM + 4) f32: sums, then maximum and normaliser
//                            written by rows with more, and by all if params.partial_only
// selection see common/selection.wgsl; not with KEYS all               read
//
// KEYS: which rows of the step are dealt with, and what they attend to. all: every row, to every
// position up to its own. dense: the same, but slots whose rows are selected are passed over. rows:
// only those, to what is selected. Position 0xffffffff: the row has no keys (with KEYS rows, none but
// listed ones); nothing is written for it.
//
// One workgroup: QUERY_ROWS neighbouring rows of one sequence (1 with KEYS rows) x the heads of one KV
// head x one split of params.split_keys keys. Keys go by in tiles of 4 WG: first each lane scores four
// keys for all queries, then a lane per query turns scores into weights, then lanes along the head
// dimension add up the values. Rows that a tile shares must be of one sequence.
//
// WG: lanes, a multiple of HEAD_DIM / 8 or a divisor of it. GROUP: query heads of a KV head.
// QUERY_ROWS. QUERIES = QUERY_ROWS * GROUP. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8. PAGE_SIZE.
// KV_TYPE. DIM_LANES: lanes along the head dimension. DIM_CHUNKS: eights of it that a lane has.
// KEY_GROUPS: WG / DIM_LANES. TILE_KEYS = 4 WG. TILE_QUADS = WG.
// QUERY_QUADS = QUERIES * HEAD_DIM / 4.

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> k_cache: array<CACHE_VEC>;
@group(0) @binding(2) var<storage, read> v_cache: array<CACHE_VEC>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> rows: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> partial: array<f32>;
#if KEYS != all
@group(0) @binding(7) var<storage, read> selection: array<u32>;
@group(0) @binding(8) var<uniform> params: AttentionParams;
@group(0) @binding(9) var<uniform> step: StepParams;
#else
@group(0) @binding(7) var<uniform> params: AttentionParams;
@group(0) @binding(8) var<uniform> step: StepParams;
#endif

#include "common/dispatch.wgsl"
#include "common/kv_rows.wgsl"
#if KEYS == dense
#include "common/selection.wgsl"
#endif
#if KEYS == rows
#include "common/slab.wgsl"
#include "common/selected_rows.wgsl"
#endif

// (QUERIES, TILE_QUADS): scores of a tile, then weights
var<workgroup> weight: array<vec4f, WEIGHT_QUADS>;
// (QUERIES): factor that brings older sums to the new maximum; at the end maximum and normaliser
var<workgroup> rescale: array<vec2f, QUERIES>;
#if KEY_GROUPS > 1
// (KEY_GROUPS, HEAD_DIM): sums of one query, to be added over the key groups
var<workgroup> group_sums: array<vec4f, GROUP_SUMS>;
#endif
#if KEYS == rows
// (TILE_QUADS): cells of the keys of a tile
var<workgroup> key_cells: array<vec4u, TILE_QUADS>;
#endif
// (QUERIES, HEAD_DIM / 4)
var<workgroup> query_values: array<vec4f, QUERY_QUADS>;

#if KEYS != rows
// First value of the cached row of `position`.
fn cell_of(slot: u32, kv_head: u32, position: u32) -> u32 {
  let page = pages[slot * params.max_pages + position / PAGE_SIZE];
  return ((page * params.num_kv_heads + kv_head) * PAGE_SIZE + position % PAGE_SIZE) * HEAD_DIM;
}
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
  let first_row = index / (params.num_kv_heads * step.num_splits) * QUERY_ROWS;
  if (first_row >= step.num_rows) {
    return;
  }
  let last_row = min(first_row + QUERY_ROWS, step.num_rows) - 1u;
  let slot = rows[step.first_row + first_row].y;
#if KEYS == dense
  if (is_selected(slot)) {
    return;
  }
#endif
#if KEYS == rows
  if (!is_selected(slot)) {
    return;
  }
  let attended = attended_of(slot, kv_head, rows[step.first_row + last_row].z);
  let num_keys = attended.total;
#else
  let num_keys = rows[step.first_row + last_row].z + 1u;
#endif
  let begin = split * params.split_keys;
  let end = min(begin + params.split_keys, num_keys);
  if (begin >= end) {
    return;
  }
  let row_quads = (params.num_heads + 2u * params.num_kv_heads) * HEAD_DIM / 4u;
  let scale = inverseSqrt(f32(HEAD_DIM));

#for r QUERY_ROWS
  let row_{r} = min(first_row + {r}u, last_row);
  let position_{r} = rows[step.first_row + row_{r}].z;
#endfor
  for (var i = lane; i < QUERY_QUADS; i += WG) {
    let query = i / (HEAD_DIM / 4u);
    let row = min(first_row + query / GROUP, last_row);
    let head = kv_head * GROUP + query % GROUP;
    query_values[i] = qkv[row * row_quads + head * HEAD_DIM / 4u + i % (HEAD_DIM / 4u)] * scale;
  }
  workgroupBarrier();

  let dim_lane = lane % DIM_LANES;
  let key_group = lane / DIM_LANES;
#for r QUERY_ROWS
#for g GROUP
#for c DIM_CHUNKS
  var oa_{r}_{g}_{c} = vec4f(0.0);
  var ob_{r}_{g}_{c} = vec4f(0.0);
#endfor
#endfor
#endfor
  // Of the queries that this lane turns into weights, SOFTMAX_ROUNDS of them.
#for s SOFTMAX_ROUNDS
  var highest_{s} = -1e30;
  var normaliser_{s} = 0.0;
#endfor

  let tiles = (end - begin + TILE_KEYS - 1u) / TILE_KEYS;
  for (var tile = 0u; tile < tiles; tile++) {
    let tile_begin = begin + tile * TILE_KEYS;
    // Four keys a lane.
#for r QUERY_ROWS
#for g GROUP
    var score_{r}_{g} = vec4f(0.0);
#endfor
#endfor
#if KEYS == rows
    var cells = vec4u(0u);
#endif
    for (var j = 0u; j < 4u; j++) {
      let key = tile_begin + lane * 4u + j;
#if KEYS == rows
      let row = row_of_key(attended, slot * params.max_pages, min(key, end - 1u));
      let cell = cell_of_row(row, kv_head);
      cells += select(vec4u(0u), vec4u(cell), vec4u(0u, 1u, 2u, 3u) == vec4u(j));
#else
      let cell = cell_of(slot, kv_head, min(key, end - 1u));
#endif
      let pick = vec4f(vec4u(0u, 1u, 2u, 3u) == vec4u(j));
#for r QUERY_ROWS
#for g GROUP
      var dot_{r}_{g} = 0.0;
#endfor
#endfor
#for i HEAD_VEC
      let k_{i} = load_key(cell, {i}u);
#for r QUERY_ROWS
#for g GROUP
      {
        let at = ({r}u * GROUP + {g}u) * (HEAD_DIM / 4u) + {i}u * 2u;
        dot_{r}_{g} += dot(query_values[at], k_{i}.a) + dot(query_values[at + 1u], k_{i}.b);
      }
#endfor
#endfor
#endfor
#for r QUERY_ROWS
#if KEYS == rows
      let seen_{r} = key < end;
#else
      let seen_{r} = key < end && key <= position_{r};
#endif
#for g GROUP
      score_{r}_{g} += pick * select(-2e30, dot_{r}_{g}, seen_{r});
#endfor
#endfor
    }
#for r QUERY_ROWS
#for g GROUP
    weight[({r}u * GROUP + {g}u) * TILE_QUADS + lane] = score_{r}_{g};
#endfor
#endfor
#if KEYS == rows
    key_cells[lane] = cells;
#endif
    workgroupBarrier();

#for s SOFTMAX_ROUNDS
    {
      let query = lane + {s}u * WG;
      if (query < QUERIES) {
        let start = query * TILE_QUADS;
        var top = vec4f(-1e30);
        for (var i = 0u; i < TILE_QUADS; i++) {
          top = max(top, weight[start + i]);
        }
        let maximum = max(highest_{s}, max(max(top.x, top.y), max(top.z, top.w)));
        var sum = vec4f(0.0);
        for (var i = 0u; i < TILE_QUADS; i++) {
          let score = weight[start + i];
          // A tile may hold no key that this query may see; its maximum is then the start value.
          let value = select(exp(score - maximum), vec4f(0.0), score < vec4f(-1e30));
          sum += value;
          weight[start + i] = value;
        }
        let factor = exp(highest_{s} - maximum);
        normaliser_{s} = normaliser_{s} * factor + sum.x + sum.y + sum.z + sum.w;
        highest_{s} = maximum;
        rescale[query] = vec2f(factor, 0.0);
      }
    }
#endfor
    workgroupBarrier();

#for r QUERY_ROWS
#for g GROUP
    let factor_{r}_{g} = rescale[{r}u * GROUP + {g}u].x;
#for c DIM_CHUNKS
    oa_{r}_{g}_{c} *= factor_{r}_{g};
    ob_{r}_{g}_{c} *= factor_{r}_{g};
#endfor
#endfor
#endfor
    let quads = (min(end - tile_begin, TILE_KEYS) + 3u) / 4u;
    for (var quad = key_group; quad < quads; quad += KEY_GROUPS) {
#for r QUERY_ROWS
#for g GROUP
      let p_{r}_{g} = weight[({r}u * GROUP + {g}u) * TILE_QUADS + quad];
#endfor
#endfor
      let key = tile_begin + quad * 4u;
#if KEYS == rows
      let quad_cells = key_cells[quad];
#else
      // A quad never crosses a page: pages and splits begin at multiples of four.
      let cell = cell_of(slot, kv_head, key);
#endif
#for j 4
      {
#if KEYS == rows
        let row_cell = quad_cells[{j}];
#else
        // Rows past the end are never written; their weight is zero, their bytes may be anything.
        let row_cell = select(cell, cell + {j}u * HEAD_DIM, key + {j}u < end);
#endif
#for c DIM_CHUNKS
        let v_{c} = load_value(row_cell, dim_lane + {c}u * DIM_LANES);
#for r QUERY_ROWS
#for g GROUP
        oa_{r}_{g}_{c} += p_{r}_{g}[{j}] * v_{c}.a;
        ob_{r}_{g}_{c} += p_{r}_{g}[{j}] * v_{c}.b;
#endfor
#endfor
#endfor
      }
#endfor
    }
    workgroupBarrier();
  }

#for s SOFTMAX_ROUNDS
  if (lane + {s}u * WG < QUERIES) {
    rescale[lane + {s}u * WG] = vec2f(highest_{s}, normaliser_{s});
  }
#endfor
  workgroupBarrier();

#for r QUERY_ROWS
#for g GROUP
  {
    let head = kv_head * GROUP + {g}u;
    let state = rescale[{r}u * GROUP + {g}u];
#if KEYS == rows
    let alone = params.partial_only == 0u && num_keys <= params.split_keys;
#else
    let alone = params.partial_only == 0u && position_{r} < params.split_keys;
#endif
    let valid = first_row + {r}u < step.num_rows;
#for c DIM_CHUNKS
    var sum_a_{c} = oa_{r}_{g}_{c};
    var sum_b_{c} = ob_{r}_{g}_{c};
#if KEY_GROUPS > 1
    workgroupBarrier();
    group_sums[lane * 2u] = sum_a_{c};
    group_sums[lane * 2u + 1u] = sum_b_{c};
    workgroupBarrier();
    for (var other = 1u; other < KEY_GROUPS; other++) {
      let start = (((key_group + other) % KEY_GROUPS) * DIM_LANES + dim_lane) * 2u;
      sum_a_{c} += group_sums[start];
      sum_b_{c} += group_sums[start + 1u];
    }
#endif
    if (valid && key_group == 0u) {
      let d = (dim_lane + {c}u * DIM_LANES) * 8u;
      if (alone) {
        let at = (row_{r} * params.num_heads + head) * HEAD_DIM + d;
        let inverse = 1.0 / state.y;
        out[at] = sum_a_{c}.x * inverse;
        out[at + 1u] = sum_a_{c}.y * inverse;
        out[at + 2u] = sum_a_{c}.z * inverse;
        out[at + 3u] = sum_a_{c}.w * inverse;
        out[at + 4u] = sum_b_{c}.x * inverse;
        out[at + 5u] = sum_b_{c}.y * inverse;
        out[at + 6u] = sum_b_{c}.z * inverse;
        out[at + 7u] = sum_b_{c}.w * inverse;
      } else {
        let piece = (row_{r} * params.num_heads + head) * params.max_splits + split;
        let at = piece * (HEAD_DIM + 4u) + d;
        partial[at] = sum_a_{c}.x;
        partial[at + 1u] = sum_a_{c}.y;
        partial[at + 2u] = sum_a_{c}.z;
        partial[at + 3u] = sum_a_{c}.w;
        partial[at + 4u] = sum_b_{c}.x;
        partial[at + 5u] = sum_b_{c}.y;
        partial[at + 6u] = sum_b_{c}.z;
        partial[at + 7u] = sum_b_{c}.w;
        if (d == 0u) {
          partial[piece * (HEAD_DIM + 4u) + HEAD_DIM] = state.x;
          partial[piece * (HEAD_DIM + 4u) + HEAD_DIM + 1u] = state.y;
        }
      }
    }
#endfor
  }
#endfor
#endfor
}
