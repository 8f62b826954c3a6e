// attention_queries: the sums of attention.wgsl for the rows of a prompt, on adapters where a subgroup
// is one vector of a CPU: a lane keeps the queries of one row and their sums, in registers. A key or a
// value lies in one lane and reaches the others by a shuffle, a single instruction there. So a load
// serves eight keys and all queries of the tile, and lanes never have to come together.
//
// Bindings and results: see attention.wgsl; there are no splits.
//
// One workgroup: WG neighbouring rows of one sequence x the heads of one KV head. Keys go by in turns
// of WG: scores of all, the sums brought to the new maximum, then the values of the same keys.
//
// WG: lanes, one subgroup, a divisor of PAGE_SIZE. GROUP: query heads of a KV head. LINE = GROUP * WG.
// QUERY_QUADS = GROUP * HEAD_QUADS. HEAD_DIM, HEAD_VEC = HEAD_DIM / 8, HEAD_QUADS = HEAD_DIM / 4.
// PAGE_SIZE. PAGE_TURNS = PAGE_SIZE / WG. KV_TYPE.

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> k_cache: array<CACHE_VEC>;
@group(0) @binding(2) var<storage, read> v_cache: array<CACHE_VEC>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read> rows: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> partial: array<vec4f>;
@group(0) @binding(7) var<uniform> params: AttentionParams;
@group(0) @binding(8) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/kv_rows.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let kv_head = index % params.num_kv_heads;
  let first_row = index / params.num_kv_heads * WG;
  if (first_row >= step.num_rows) {
    return;
  }
  let last_row = min(first_row + WG, step.num_rows) - 1u;
  let slot = rows[step.first_row + first_row].y;
  let end = rows[step.first_row + last_row].z + 1u;
  // A lane past the last row repeats it, and writes nothing.
  let row = min(first_row + lane, last_row);
  let position = rows[step.first_row + row].z;
  let row_quads = (params.num_heads + 2u * params.num_kv_heads) * HEAD_QUADS;
  let base = row * row_quads + kv_head * GROUP * HEAD_QUADS;
  let scale = inverseSqrt(f32(HEAD_DIM));
  let table = slot * params.max_pages;

  var query: array<vec4f, QUERY_QUADS>;
  var sums: array<vec4f, QUERY_QUADS>;
  var highest: array<f32, GROUP>;
  var normaliser: array<f32, GROUP>;
#for q QUERY_QUADS
  query[{q}] = qkv[base + {q}u] * scale;
  sums[{q}] = vec4f(0.0);
#endfor
#for g GROUP
  highest[{g}] = -1e30;
  normaliser[{g}] = 0.0;
#endfor

  for (var page = 0u; page * PAGE_SIZE < end; page++) {
    let cells = (pages[table + page] * params.num_kv_heads + kv_head) * PAGE_SIZE;
    let turns = min(PAGE_TURNS, (end - page * PAGE_SIZE + WG - 1u) / WG);
    for (var turn = 0u; turn < turns; turn++) {
      let key = page * PAGE_SIZE + turn * WG;
      // Rows past the end may be anything, so the last one is read in their place.
      let cell = (cells + min(turn * WG + lane, end - 1u - page * PAGE_SIZE)) * HEAD_DIM;
      var line: array<f32, LINE>;
#for s LINE
      line[{s}] = 0.0;
#endfor
#for i HEAD_VEC
      {
        let own = load_key(cell, {i}u);
#for k WG
        {
          let a = subgroupShuffle(own.a, {k}u);
          let b = subgroupShuffle(own.b, {k}u);
#for g GROUP
          line[{g} * WG + {k}] += dot(query[{g} * HEAD_QUADS + {i} * 2], a) +
            dot(query[{g} * HEAD_QUADS + {i} * 2 + 1], b);
#endfor
        }
#endfor
      }
#endfor
#for g GROUP
      {
        var top = highest[{g}];
#for k WG
        line[{g} * WG + {k}] = select(-2e30, line[{g} * WG + {k}], key + {k}u <= position);
        top = max(top, line[{g} * WG + {k}]);
#endfor
        let factor = exp(highest[{g}] - top);
        highest[{g}] = top;
        var total = normaliser[{g}] * factor;
#for k WG
        // The first key is seen by all, so the top is a score and one that is not seen weighs nothing.
        line[{g} * WG + {k}] = exp(line[{g} * WG + {k}] - top);
        total += line[{g} * WG + {k}];
#endfor
        normaliser[{g}] = total;
#for i HEAD_QUADS
        sums[{g} * HEAD_QUADS + {i}] *= factor;
#endfor
      }
#endfor
#for i HEAD_VEC
      {
        let own = load_value(cell, {i}u);
#for k WG
        {
          let a = subgroupShuffle(own.a, {k}u);
          let b = subgroupShuffle(own.b, {k}u);
#for g GROUP
          sums[{g} * HEAD_QUADS + {i} * 2] += line[{g} * WG + {k}] * a;
          sums[{g} * HEAD_QUADS + {i} * 2 + 1] += line[{g} * WG + {k}] * b;
#endfor
        }
#endfor
      }
#endfor
    }
  }
  if (first_row + lane < step.num_rows) {
#for g GROUP
    {
      let head = row * params.num_heads + kv_head * GROUP + {g}u;
      if (params.partial_only != 0u) {
        let at = head * params.max_splits * (HEAD_QUADS + 1u);
#for i HEAD_QUADS
        partial[at + {i}u] = sums[{g} * HEAD_QUADS + {i}];
#endfor
        partial[at + HEAD_QUADS] = vec4f(highest[{g}], normaliser[{g}], 0.0, 0.0);
      } else {
        let factor = 1.0 / normaliser[{g}];
#for i HEAD_QUADS
        out[head * HEAD_QUADS + {i}u] = sums[{g} * HEAD_QUADS + {i}] * factor;
#endfor
      }
    }
#endfor
  }
}
