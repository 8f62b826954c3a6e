// matmul_lanes: the sums of matmul.wgsl, for many tokens on adapters where a subgroup is one vector of
// a CPU: a lane has tokens of its own and sums in registers. A row's weights lie in one lane, which
// unpacks them, and reach the others by a shuffle, a single instruction there. So a load serves as
// many rows as there are lanes, and no sums have to be brought together.
//
// Bindings: see matmul.wgsl. y and the bias are read and written by fours: rows, offset and stride
// are multiples of 4.
//
// One workgroup makes ROWS x TOKENS sums; lane l has tokens l, WG + l, ... of the tile.
//
// WG: lanes, one subgroup. ROWS: multiple of WG, of 2 * WG for swiglu. TOKENS: multiple of WG.
// GROUPS = ROWS / WG. TURNS = TOKENS / WG. SUMS = ROWS * TURNS. OUT_QUADS = OUT_ROWS / 4.
// OUT = vec4f, OUT_WIDTH = 4. EPILOGUE, OUT_ROWS, BIAS, the weight defines: see matmul.wgsl.

#include "common/product.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let token_tiles = (step.num_rows + TOKENS - 1u) / TOKENS;
  let index = workgroup_index(id, count);
  let tile = index / token_tiles;
  let first = (index % token_tiles) * TOKENS;
  if (tile * OUT_ROWS >= params.rows) {
    return;
  }
#for g GROUPS
  let base_{g} = weight_row(tile, {g}u * WG + lane) * params.row_vecs;
#endfor
#for t TURNS
  let token_{t} = first + {t}u * WG + lane;
  let x_{t} = min(token_{t}, step.num_rows - 1u) * params.x_stride;
#endfor
  var acc: array<f32, SUMS>;
  for (var u = 0u; u < params.units; u++) {
    let at = unit_x(u);
#for t TURNS
    let xa_{t} = x[x_{t} + at.x];
    let xb_{t} = x[x_{t} + at.y];
#endfor
#for g GROUPS
    {
      let unit = load_unit(base_{g}, u, params.units);
      let own_a = weight_a(unit);
      let own_b = weight_b(unit);
#for r WG
      {
        let wa = subgroupShuffle(own_a, {r}u);
        let wb = subgroupShuffle(own_b, {r}u);
#for t TURNS
        acc[({g}u * WG + {r}u) * TURNS + {t}u] += dot(wa, xa_{t}) + dot(wb, xb_{t});
#endfor
      }
#endfor
    }
#endfor
  }
#for t TURNS
  if (token_{t} < step.num_rows) {
#for q OUT_QUADS
    // Rows come by fours, so that all of a quad exist or none.
    if (tile * OUT_ROWS + {q}u * 4u < params.rows) {
      let sums = vec4f(
        acc[{q}u * 4u * TURNS + {t}u],
        acc[({q}u * 4u + 1u) * TURNS + {t}u],
        acc[({q}u * 4u + 2u) * TURNS + {t}u],
        acc[({q}u * 4u + 3u) * TURNS + {t}u],
      );
#if EPILOGUE == swiglu
      let ups = vec4f(
        acc[(OUT_ROWS + {q}u * 4u) * TURNS + {t}u],
        acc[(OUT_ROWS + {q}u * 4u + 1u) * TURNS + {t}u],
        acc[(OUT_ROWS + {q}u * 4u + 2u) * TURNS + {t}u],
        acc[(OUT_ROWS + {q}u * 4u + 3u) * TURNS + {t}u],
      );
      _ = finish(tile * OUT_ROWS + {q}u * 4u, token_{t}, silu(sums) * ups);
#else
      _ = finish(tile * OUT_ROWS + {q}u * 4u, token_{t}, sums);
#endif
    }
#endfor
  }
#endfor
}
