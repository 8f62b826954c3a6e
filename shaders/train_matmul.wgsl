// train_matmul: many products of f32 matrices, c = alpha * a . b, of a predictor's training.
//
// FORM NT: a (m, k), b (n, k). NN: a (m, k), b (k, n). TN: a (k, m), b (k, n). c (m, n).
//
// a, b     f32 matrices as vec4f                                            read
// c        f32 matrices as vec4f                                            written
// positions (rows) u32, rising                                              read, only with CAUSAL
//
// A lane makes 8 x 8 sums of one product, so that what is loaded is used eight times; lanes never
// meet. Products lie in batches; where several share an operand its stride counts once for DIV of
// them. The sum may go over segments, each with operands of their own.
//
// CAUSAL: one operand is (rows, tokens) or becomes that, and rows see tokens up to their position only,
// which rises from row to row: the rest is left out (NT: of c; NN and TN: of the sum).
//
// WG: lanes.

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
#if CAUSAL
@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<uniform> params: TrainMatmulParams;
#else
@group(0) @binding(3) var<uniform> params: TrainMatmulParams;
#endif

#include "common/dispatch.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count) * WG + lane;
  let tiles = params.m_tiles * params.n_tiles;
  let batch = index / tiles;
  if (batch >= params.batches) {
    return;
  }
  let row = index % tiles / params.n_tiles * 8u;
  let column = index % params.n_tiles * 2u;
  var first = 0u;
  var depth = params.depth;
#if CAUSAL
#if FORM == NT
  if (column * 4u > positions[row + 7u]) {
    return;
  }
#else
#if FORM == NN
  depth = min(depth, (positions[row + 7u] + 4u) / 4u * 4u);
#else
  // Here a row of c is a token: rows before the first that sees it add nothing.
  var end = depth;
  while (first < end) {
    let middle = (first + end) / 2u;
    if (positions[middle] < row) {
      first = middle + 1u;
    } else {
      end = middle;
    }
  }
#endif
#endif
#endif
  let a_base = params.a_at + batch / params.a_div * params.a_batch;
  let b_base = params.b_at + batch / params.b_div * params.b_batch;
#for h 2
#for i 4
#for j 2
  var sum_{h}_{i}_{j} = vec4f(0.0);
#endfor
#endfor
#endfor
  for (var segment = 0u; segment < params.segments; segment++) {
    let a_from = a_base + segment * params.a_segment;
    let b_from = b_base + segment * params.b_segment;
#if FORM == TN
    for (var k = first; k < depth; k++) {
      let a_0 = a[a_from + k * params.a_stride + row / 4u];
      let a_1 = a[a_from + k * params.a_stride + row / 4u + 1u];
#for j 2
      let b_{j} = b[b_from + k * params.b_stride + column + {j}u];
#endfor
#for h 2
#for i 4
#for j 2
      sum_{h}_{i}_{j} += a_{h}[{i}] * b_{j};
#endfor
#endfor
#endfor
    }
#else
    for (var k = first; k < depth / 4u; k++) {
#for h 2
#for i 4
      let a_{h}_{i} = a[a_from + (row + {h}u * 4u + {i}u) * params.a_stride + k];
#endfor
#endfor
#if FORM == NT
#for j 2
#for l 4
      let b_{j}_{l} = b[b_from + (column * 4u + {j}u * 4u + {l}u) * params.b_stride + k];
#endfor
#for h 2
#for i 4
      sum_{h}_{i}_{j} += vec4f(
        dot(a_{h}_{i}, b_{j}_0),
        dot(a_{h}_{i}, b_{j}_1),
        dot(a_{h}_{i}, b_{j}_2),
        dot(a_{h}_{i}, b_{j}_3),
      );
#endfor
#endfor
#endfor
#else
#for l 4
#for j 2
      let b_{l}_{j} = b[b_from + (k * 4u + {l}u) * params.b_stride + column + {j}u];
#endfor
#for h 2
#for i 4
#for j 2
      sum_{h}_{i}_{j} += a_{h}_{i}[{l}] * b_{l}_{j};
#endfor
#endfor
#endfor
#endfor
#endif
    }
#endif
  }
  let c_from = params.c_at + batch * params.c_batch + row * params.c_stride + column;
#for h 2
#for i 4
#for j 2
  c[c_from + ({h}u * 4u + {i}u) * params.c_stride + {j}u] = params.alpha * sum_{h}_{i}_{j};
#endfor
#endfor
#endfor
}
