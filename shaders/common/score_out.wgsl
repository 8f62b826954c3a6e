// How scoring kernels write a list: each lane has runs of eight indices; two quads of scores and the
// largest key of the run. Pages of 32 that hold a candidate are written whole, with -infinity and key
// 0 in places that are none. Needs `scores` (vec4u) and `params`; includes common/score_keys.wgsl.

#include "common/score_keys.wgsl"

// Scores index .. index + 3; returns their largest key.
fn put_scores(list: u32, index: u32, score: vec4f, range: vec2u) -> u32 {
  let indices = vec4u(index) + vec4u(0u, 1u, 2u, 3u);
  let within = (indices >= vec4u(range.x)) & (indices < vec4u(range.y));
  let bits = select(vec4u(0xff800000u), bitcast<vec4u>(score), within);
  scores[(list * params.score_stride + index) / 4u] = bits;
  return largest_of(select(vec4u(0u), keys_of(bits), within));
}

// Largest key of the run that begins at `index`.
fn put_maximum(list: u32, index: u32, key: u32) {
  let at = list * params.score_stride + params.maxima_at + index / 8u;
  scores[at / 4u][at % 4u] = key;
}
