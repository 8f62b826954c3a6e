// How scoring kernels write a list: each lane has runs of eight indices; two quads of scores and the
// key of the run's largest. Pages of 32 that hold a candidate are written whole, with -infinity in
// places that are none. Needs `scores` (vec4u) and `params`; includes common/score_keys.wgsl.

#include "common/score_keys.wgsl"

// -infinity, which no constant may be.
var<private> lowest_bits: u32 = 0xff800000u;

fn lowest() -> f32 {
  return bitcast<f32>(lowest_bits);
}

// Scores index .. index + 3, as written: -infinity for what is none, or no number.
fn put_scores(list: u32, index: u32, score: vec4f, range: vec2u) -> vec4f {
  let indices = vec4u(index) + vec4u(0u, 1u, 2u, 3u);
  let bits = bitcast<vec4u>(score);
  let sound = (indices >= vec4u(range.x)) & (indices < vec4u(range.y)) &
    ((bits & vec4u(0x7fffffffu)) <= vec4u(0x7f800000u));
  let kept = select(vec4u(0xff800000u), bits, sound);
  scores[(list * params.score_stride + index) / 4u] = kept;
  return bitcast<vec4f>(kept);
}

// Key of the largest of the run that begins at `index`, of which these are the scores.
fn put_maximum(list: u32, index: u32, best: vec4f) {
  let at = list * params.score_stride + params.maxima_at + index / 8u;
  let largest = max(max(best.x, best.y), max(best.z, best.w));
  scores[at / 4u][at % 4u] = keys_of(vec4u(bitcast<u32>(largest))).x;
}
