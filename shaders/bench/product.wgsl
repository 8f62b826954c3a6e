// product: y[t, r] = sum_k w[r, k] x[t, k] with weights of 4 or 8 bits that are laid out for the
// probe alone: nothing of what a model needs beside. What the adapter can do with such weights.
//
// quants   (rows, STEPS) u32 or vec4u: values of BITS bits                     read
// scales   (rows, STEPS / STEPS_A_BLOCK) u32: scale and minimum, as f16        read
// x        (TOKENS, STEPS, quads of a step) vec4f, in the order of the values  read
// y        (TOKENS, NUM_ROWS) f32                                              written
//
// One workgroup makes ROWS rows; its lanes walk the row together, a step each: one load of WORDS
// words, which lie in one block of 32. One barrier, then a lane adds up the sums of the others for
// one output.
//
// WG, WG_COUNT: lanes. ROWS, TOKENS: tile. BITS: 4 or 8. WORDS: 1 or 4. NUM_ROWS: rows of the matrix,
// a multiple of ROWS. SUMS = ROWS * TOKENS. PARTIALS = SUMS * WG.

#if WORDS == 1
@group(0) @binding(0) var<storage, read> quants: array<u32>;
#else
@group(0) @binding(0) var<storage, read> quants: array<vec4u>;
#endif
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
  for (var i = lane; i < STEPS; i += WG) {
#for t TOKENS
    var total_{t} = vec4f(0.0);
#for w WORDS
#if BITS == 4
    let xa_{t}_{w} = x[(({t}u * STEPS + i) * WORDS + {w}u) * 2u];
    let xb_{t}_{w} = x[(({t}u * STEPS + i) * WORDS + {w}u) * 2u + 1u];
    total_{t} += xa_{t}_{w} + xb_{t}_{w};
#else
    let xa_{t}_{w} = x[({t}u * STEPS + i) * WORDS + {w}u];
    total_{t} += xa_{t}_{w};
#endif
#endfor
    let sum_x_{t} = dot(total_{t}, vec4f(1.0));
#endfor
#for r ROWS
    {
      let at = (first + {r}u) * STEPS + i;
      let scale = unpack2x16float(scales[at / STEPS_A_BLOCK]);
#if WORDS == 1
      let word_0 = quants[at];
#else
      let load = quants[at];
#for w WORDS
      let word_{w} = load[{w}];
#endfor
#endif
#for t TOKENS
      var dot_{t} = 0.0;
#endfor
#for w WORDS
      {
#if BITS == 4
        let a = vec4f(unpack4xI8(word_{w} & 0x0f0f0f0fu));
        let b = vec4f(unpack4xI8((word_{w} >> 4u) & 0x0f0f0f0fu));
#for t TOKENS
        dot_{t} += dot(a, xa_{t}_{w}) + dot(b, xb_{t}_{w});
#endfor
#else
        let a = vec4f(unpack4xI8(word_{w}));
#for t TOKENS
        dot_{t} += dot(a, xa_{t}_{w});
#endfor
#endif
      }
#endfor
#for t TOKENS
      sum_{r}_{t} += scale.x * dot_{t} + scale.y * sum_x_{t};
#endfor
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
