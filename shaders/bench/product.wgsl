// product: y[t, r] = sum_k w[r, k] x[t, k] with 4-bit weights that are laid out for the probe alone:
// nothing of what a model needs beside. What the adapter can do with such weights.
//
// quants   (rows, UNITS) u32: eight nibbles                            read
// scales   (rows, UNITS / 4) u32: scale and minimum of 32, as f16      read
// x        (TOKENS, UNITS * 2) vec4f, in the order of the nibbles      read
// y        (TOKENS, rows) f32                                          written
//
// One workgroup makes ROWS rows; its lanes walk the row together. One barrier, then a lane adds up
// the sums of the others for one output.
//
// WG: lanes. ROWS, TOKENS: tile. UNITS: eights of a row. NUM_ROWS: rows of the matrix, a multiple of
// ROWS. SUMS = ROWS * TOKENS.

@group(0) @binding(0) var<storage, read> quants: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

#include "common/dispatch.wgsl"

// (SUMS, WG)
var<workgroup> partial: array<f32, PARTIALS>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = workgroup_index(id, count) * ROWS;
#for r ROWS
#for t TOKENS
  var sum_{r}_{t} = 0.0;
#endfor
#endfor
  for (var u = lane; u < UNITS; u += WG) {
#for t TOKENS
    let xa_{t} = x[{t}u * UNITS * 2u + u * 2u];
    let xb_{t} = x[{t}u * UNITS * 2u + u * 2u + 1u];
#endfor
#if TOKENS == 1
    let sums = dot(xa_0 + xb_0, vec4f(1.0));
#endif
#for r ROWS
    {
      let word = quants[(first + {r}u) * UNITS + u];
      let d = unpack2x16float(scales[(first + {r}u) * (UNITS / 4u) + u / 4u]);
      let a = vec4f(unpack4xI8(word & 0x0f0f0f0fu));
      let b = vec4f(unpack4xI8((word >> 4u) & 0x0f0f0f0fu));
#if TOKENS == 1
      sum_{r}_0 += d.x * (dot(a, xa_0) + dot(b, xb_0)) + d.y * sums;
#else
      let wa = d.x * a + d.y;
      let wb = d.x * b + d.y;
#for t TOKENS
      sum_{r}_{t} += dot(wa, xa_{t}) + dot(wb, xb_{t});
#endfor
#endif
    }
#endfor
  }
#for r ROWS
#for t TOKENS
  partial[({r}u * TOKENS + {t}u) * WG + lane] = sum_{r}_{t};
#endfor
#endfor
  workgroupBarrier();
  for (var out = lane; out < SUMS; out += WG) {
    var total = 0.0;
#for i WG_COUNT
    total += partial[out * WG + {i}u];
#endfor
    y[(out % TOKENS) * NUM_ROWS + first + out / TOKENS] = total;
  }
}
