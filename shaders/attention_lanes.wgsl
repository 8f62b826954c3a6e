// attention_lanes: the same sums as attention.wgsl, for adapters that are CPUs: a lane keeps whole
// keys, queries and sums to itself, in registers, and lanes meet once, at the end. There registers
// spill into a near cache, while barriers and exchanged values are what costs.
//
// Bindings and results: see attention.wgsl.
//
// One workgroup: QUERY_ROWS neighbouring rows of one sequence x the heads of one KV head x one
// split of params.split_keys keys. Keys go by in tiles of TILE_KEYS: each lane scores every WG-th key
// of the tile, brings its sums to the new maximum once, and adds up the values of the same keys.
//
// WG: lanes, a divisor of PAGE_SIZE. GROUP: query heads of a KV head. QUERY_ROWS.
// QUERIES = QUERY_ROWS * GROUP. QUERY_VECS: vec4s that hold one value a query; LINE: 4 of them each.
// QUERY_QUADS = QUERIES * HEAD_QUADS. STATES = QUERIES * WG. HEAD_DIM,
// HEAD_VEC = HEAD_DIM / 8, HEAD_QUADS = HEAD_DIM / 4. PAGE_SIZE. KV_TYPE. TILE_PAGES:
// pages of a tile. PAGE_TURNS = PAGE_SIZE / WG. SCORES = TILE_PAGES * PAGE_SIZE * QUERY_VECS.
// MERGED = HEAD_QUADS * WG. KEYS: see attention.wgsl; a page is then PAGE_SIZE keys of the selection.
// TILE_KEYS = TILE_PAGES * PAGE_SIZE.

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> k_cache: array<CACHE_VEC>;
@group(0) @binding(2) var<storage, read> v_cache: array<CACHE_VEC>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> rows: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> partial: array<vec4f>;
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

// (keys of a tile, QUERY_VECS): scores; a lane reads back what it wrote itself
var<workgroup> scores: array<vec4f, SCORES>;
#if KEYS == rows
// (keys of a tile): their cells; a lane reads back what it wrote itself
var<workgroup> key_cells: array<u32, TILE_KEYS>;
#endif
// (HEAD_QUADS, lanes): sums of one query
var<workgroup> merged: array<vec4f, MERGED>;
// (QUERIES, lanes): maximum and normaliser
var<workgroup> states: array<vec2f, STATES>;

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
  let row_quads = (params.num_heads + 2u * params.num_kv_heads) * HEAD_QUADS;
  let scale = inverseSqrt(f32(HEAD_DIM));
  let table = slot * params.max_pages;

  var query: array<vec4f, QUERY_QUADS>;
  var sums: array<vec4f, QUERY_QUADS>;
  var highest: array<f32, QUERIES>;
  var normaliser: array<f32, QUERIES>;
#for r QUERY_ROWS
  let row_{r} = min(first_row + {r}u, last_row);
  let position_{r} = rows[step.first_row + row_{r}].z;
  let base_{r} = row_{r} * row_quads + kv_head * GROUP * HEAD_QUADS;
#for g GROUP
  highest[{r} * GROUP + {g}] = -1e30;
  normaliser[{r} * GROUP + {g}] = 0.0;
#for i HEAD_QUADS
  query[({r} * GROUP + {g}) * HEAD_QUADS + {i}] = qkv[base_{r} + {g}u * HEAD_QUADS + {i}u] * scale;
  sums[({r} * GROUP + {g}) * HEAD_QUADS + {i}] = vec4f(0.0);
#endfor
#endfor
#endfor

  for (var page = begin / PAGE_SIZE; page * PAGE_SIZE < end; page += TILE_PAGES) {
    let last_page = min(page + TILE_PAGES, (end + PAGE_SIZE - 1u) / PAGE_SIZE);
    // Scores of the tile, and their maximum.
#for q QUERIES
    var top_{q} = highest[{q}];
#endfor
    for (var p = page; p < last_page; p++) {
#if KEYS != rows
      let cells = (pages[table + p] * params.num_kv_heads + kv_head) * PAGE_SIZE;
#endif
      for (var turn = 0u; turn < PAGE_TURNS; turn++) {
        let in_page = turn * WG + lane;
        let key = p * PAGE_SIZE + in_page;
        // Rows past the end may be anything, so the last one is read in their place.
#if KEYS == rows
        let cell = cell_of_row(row_of_key(attended, table, min(key, end - 1u)), kv_head);
        key_cells[(p - page) * PAGE_SIZE + in_page] = cell;
#else
        let cell = (cells + min(in_page, end - 1u - p * PAGE_SIZE)) * HEAD_DIM;
#endif
        var line: array<f32, LINE>;
#for q LINE
        line[{q}] = 0.0;
#endfor
#for i HEAD_VEC
        {
          let k = load_key(cell, {i}u);
#for q QUERIES
          line[{q}] += dot(query[{q} * HEAD_QUADS + {i} * 2], k.a) +
            dot(query[{q} * HEAD_QUADS + {i} * 2 + 1], k.b);
#endfor
        }
#endfor
#for r QUERY_ROWS
#if KEYS == rows
        let seen_{r} = key < end;
#else
        let seen_{r} = key < end && key <= position_{r};
#endif
#for g GROUP
        line[{r} * GROUP + {g}] = select(-2e30, line[{r} * GROUP + {g}], seen_{r});
#endfor
#endfor
#for q QUERIES
        top_{q} = max(top_{q}, line[{q}]);
#endfor
        let at = (((p - page) * PAGE_TURNS + turn) * WG + lane) * QUERY_VECS;
#for v QUERY_VECS
        scores[at + {v}u] =
          vec4f(line[{v} * 4], line[{v} * 4 + 1], line[{v} * 4 + 2], line[{v} * 4 + 3]);
#endfor
      }
    }
#for q QUERIES
    {
      let factor = exp(highest[{q}] - top_{q});
      highest[{q}] = top_{q};
      normaliser[{q}] *= factor;
#for i HEAD_QUADS
      sums[{q} * HEAD_QUADS + {i}] *= factor;
#endfor
    }
#endfor
    // Values, weighted.
    for (var p = page; p < last_page; p++) {
#if KEYS != rows
      let cells = (pages[table + p] * params.num_kv_heads + kv_head) * PAGE_SIZE;
#endif
      for (var turn = 0u; turn < PAGE_TURNS; turn++) {
        let in_page = turn * WG + lane;
#if KEYS == rows
        let cell = key_cells[(p - page) * PAGE_SIZE + in_page];
#else
        let cell = (cells + min(in_page, end - 1u - p * PAGE_SIZE)) * HEAD_DIM;
#endif
        let at = (((p - page) * PAGE_TURNS + turn) * WG + lane) * QUERY_VECS;
        var weight: array<f32, LINE>;
#for v QUERY_VECS
        {
          let line = scores[at + {v}u];
          weight[{v} * 4] = line.x;
          weight[{v} * 4 + 1] = line.y;
          weight[{v} * 4 + 2] = line.z;
          weight[{v} * 4 + 3] = line.w;
        }
#endfor
#for q QUERIES
        // A key that is not seen scores below any maximum, also below that of no key at all.
        weight[{q}] = select(exp(weight[{q}] - highest[{q}]), 0.0, weight[{q}] < -1e30);
        normaliser[{q}] += weight[{q}];
#endfor
#for i HEAD_VEC
        {
          let v = load_value(cell, {i}u);
#for q QUERIES
          sums[{q} * HEAD_QUADS + {i} * 2] += weight[{q}] * v.a;
          sums[{q} * HEAD_QUADS + {i} * 2 + 1] += weight[{q}] * v.b;
#endfor
        }
#endfor
      }
    }
  }

  // The lanes come together.
#for q QUERIES
  states[{q} * WG + lane] = vec2f(highest[{q}], normaliser[{q}]);
#endfor
  workgroupBarrier();
#for r QUERY_ROWS
#for g GROUP
  {
    var top = -1e30;
    for (var other = 0u; other < WG; other++) {
      top = max(top, states[({r}u * GROUP + {g}u) * WG + other].x);
    }
    var whole = 0.0;
    for (var other = 0u; other < WG; other++) {
      let state = states[({r}u * GROUP + {g}u) * WG + other];
      whole += state.y * exp(state.x - top);
    }
    let factor = exp(highest[{r} * GROUP + {g}] - top);
#for i HEAD_QUADS
    merged[{i}u * WG + lane] = sums[({r} * GROUP + {g}) * HEAD_QUADS + {i}] * factor;
#endfor
    workgroupBarrier();
    let head = row_{r} * params.num_heads + kv_head * GROUP + {g}u;
#if KEYS == rows
    let alone = params.partial_only == 0u && num_keys <= params.split_keys;
#else
    let alone = params.partial_only == 0u && position_{r} < params.split_keys;
#endif
    if (first_row + {r}u < step.num_rows) {
      for (var quad = lane; quad < HEAD_QUADS; quad += WG) {
        var sum = vec4f(0.0);
        for (var other = 0u; other < WG; other++) {
          sum += merged[quad * WG + other];
        }
        if (alone) {
          out[head * HEAD_QUADS + quad] = sum / whole;
        } else {
          partial[(head * params.max_splits + split) * (HEAD_QUADS + 1u) + quad] = sum;
        }
      }
      if (lane == 0u && !alone) {
        partial[(head * params.max_splits + split) * (HEAD_QUADS + 1u) + HEAD_QUADS] =
          vec4f(top, whole, 0.0, 0.0);
      }
    }
    workgroupBarrier();
  }
#endfor
#endfor
}
