// score_projected: for each candidate row its importance, the largest over the query heads of a KV
// head of (importance query . importance key) / 4.
//
// imp_queries  (rows, heads, 16) f32                                       read
// importance   (pages, kv_heads, importance_quads) vec4u                   read
//              KEYS f16: 16 f16 a row; int8: 16 bytes a row, then the f32 scale of each row; a value
//              is (byte - 128) times the scale
// imp_pages    (slots, max_pages) u32                                      read
// rows         (rows of the step) vec4u: token, slot, position, 0          read
// recipes      (slots, recipe_stride) u32                                  read
// scores       (rows, kv_heads, score_stride): f32 scores, then the largest key of each eight
//                                                                          written
//
// One workgroup: a block of 8 TURNS WG candidates of a row and a KV head; index of the workgroup =
// (block * rows + row) * kv_heads + kv_head. A lane has runs of eight neighbouring rows, so that it
// writes whole vec4s and finds the run's largest score by itself.
//
// WG: lanes. GROUP: query heads of a KV head. TURNS: runs of a lane. UNIT: rows. MODE: number of the mode
// that the kernel works for. KEYS.

@group(0) @binding(0) var<storage, read> imp_queries: array<vec4f>;
@group(0) @binding(1) var<storage, read> importance: array<vec4u>;
@group(0) @binding(2) var<storage, read> imp_pages: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4u>;
@group(0) @binding(4) var<storage, read> recipes: array<u32>;
@group(0) @binding(5) var<storage, read_write> scores: array<vec4u>;
@group(0) @binding(6) var<uniform> params: ListParams;
@group(0) @binding(7) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/candidates.wgsl"
#include "common/score_out.wgsl"

const page_rows = 32u;

#if KEYS == int8
fn bytes_of(word: u32) -> vec4f {
  return vec4f(vec4u(word & 255u, (word >> 8u) & 255u, (word >> 16u) & 255u, word >> 24u));
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
  let row = index / params.num_kv_heads % step.num_rows;
  let block = index / (params.num_kv_heads * step.num_rows);
  let info = rows[step.first_row + row];
  let range = candidates_of(info.y, info.z);
  let begin = block * (8u * TURNS * WG);
  if (mode_of(info.y) != MODE || range.x >= range.y || begin >= range.y) {
    return;
  }
  let list = row * params.num_kv_heads + kv_head;
  let first = range.x / page_rows * page_rows;
  let end = (range.y + page_rows - 1u) / page_rows * page_rows;
  let table = info.y * params.max_pages;

  let base = (row * params.num_heads + kv_head * GROUP) * 4u;
#for g GROUP
#for i 4
  let q_{g}_{i} = imp_queries[base + {g}u * 4u + {i}u] * 0.25;
#endfor
#if KEYS == int8
  // What the 128 of each byte adds.
  let shift_{g} = -128.0 * (q_{g}_0 + q_{g}_1 + q_{g}_2 + q_{g}_3);
#endif
#endfor
  for (var turn = 0u; turn < TURNS; turn++) {
    let run = begin + (turn * WG + lane) * 8u;
    if (run >= first && run < end) {
      let page = imp_pages[table + run / page_rows];
      let cell = (page * params.num_kv_heads + kv_head) * params.importance_quads;
      var best = vec4f(lowest());
      for (var half = 0u; half < 2u; half++) {
#if KEYS == int8
        let at = cell + run % page_rows + half * 4u;
        let scale = bitcast<vec4f>(importance[cell + page_rows + run % page_rows / 4u + half]);
#for j 4
        let w_{j} = importance[at + {j}u];
#endfor
#for j 4
        let k_{j}_0 = bytes_of(w_{j}.x);
        let k_{j}_1 = bytes_of(w_{j}.y);
        let k_{j}_2 = bytes_of(w_{j}.z);
        let k_{j}_3 = bytes_of(w_{j}.w);
        var s_{j} = lowest();
#for g GROUP
        {
          let sum = fma(q_{g}_3, k_{j}_3, fma(q_{g}_2, k_{j}_2, fma(q_{g}_1, k_{j}_1, fma(q_{g}_0, k_{j}_0, shift_{g}))));
          s_{j} = max(s_{j}, sum.x + sum.y + sum.z + sum.w);
        }
#endfor
#endfor
        let found = vec4f(s_0, s_1, s_2, s_3) * scale;
#else
        let at = cell + run % page_rows * 2u + half * 8u;
#for j 4
        let a_{j} = importance[at + {j}u * 2u];
        let b_{j} = importance[at + {j}u * 2u + 1u];
#endfor
#for j 4
        let k_{j}_0 = vec4f(unpack2x16float(a_{j}.x), unpack2x16float(a_{j}.y));
        let k_{j}_1 = vec4f(unpack2x16float(a_{j}.z), unpack2x16float(a_{j}.w));
        let k_{j}_2 = vec4f(unpack2x16float(b_{j}.x), unpack2x16float(b_{j}.y));
        let k_{j}_3 = vec4f(unpack2x16float(b_{j}.z), unpack2x16float(b_{j}.w));
        var s_{j} = lowest();
#for g GROUP
        {
          let sum = fma(q_{g}_3, k_{j}_3, fma(q_{g}_2, k_{j}_2, fma(q_{g}_1, k_{j}_1, q_{g}_0 * k_{j}_0)));
          s_{j} = max(s_{j}, sum.x + sum.y + sum.z + sum.w);
        }
#endfor
#endfor
        let found = vec4f(s_0, s_1, s_2, s_3);
#endif
        best = max(best, put_scores(list, run + half * 4u, found, range));
      }
      put_maximum(list, run, best);
    }
  }
}
