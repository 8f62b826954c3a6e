// What the sampling kernels share: reading a logit, its order-preserving key, and reductions over a
// workgroup. Logits are read as bits, because a compiler may assume that floats are never NaN or
// infinite: NaN becomes `banned`, everything else is clamped to +-1e30.
// Defines: WG (lanes of a workgroup, a power of two), LOG_WG.
const banned: f32 = -1e30;
const nowhere: u32 = 0xffffffffu;

fn clean(bits: u32) -> f32 {
  let magnitude = bits & 0x7fffffffu;
  let sign = select(bits & 0x80000000u, 0x80000000u, magnitude > 0x7f800000u);
  let clamped = min(magnitude, 0x7149f2cau);
  return bitcast<f32>(select(sign | clamped, 0u, clamped == 0u));
}

// Larger logit, larger key; 0 is below every logit.
fn key_of(logit: f32) -> u32 {
  let bits = bitcast<u32>(logit);
  return select(~bits, bits | 0x80000000u, bits < 0x80000000u);
}

fn logit_of(key: u32) -> f32 {
  return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

// exp that is exactly 0 far below 0: some adapters stop at the smallest normal number instead.
fn weight_of(x: f32) -> f32 {
  return select(0.0, exp(max(x, -87.0)), x > -87.0);
}

var<workgroup> best_keys: array<u32, WG>;
var<workgroup> best_ids: array<u32, WG>;
var<workgroup> best_pair: vec2u;
var<workgroup> sums: array<vec4f, WG>;
var<workgroup> sum_total: vec4f;

// Largest key of all lanes and its id, the lowest one on ties. Uniform result.
fn reduce_best(lane: u32, key: u32, id: u32) -> vec2u {
  best_keys[lane] = key;
  best_ids[lane] = id;
  workgroupBarrier();
  for (var step = WG / 2u; step > 0u; step = step / 2u) {
    if (lane < step) {
      let other = best_keys[lane + step];
      let other_id = best_ids[lane + step];
      let mine = best_keys[lane];
      if (other > mine || (other == mine && other_id < best_ids[lane])) {
        best_keys[lane] = other;
        best_ids[lane] = other_id;
      }
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    best_pair = vec2u(best_keys[0], best_ids[0]);
  }
  return workgroupUniformLoad(&best_pair);
}

// Sum over all lanes, always in the same order. Uniform result.
fn reduce_sum(lane: u32, value: vec4f) -> vec4f {
  sums[lane] = value;
  workgroupBarrier();
  for (var step = WG / 2u; step > 0u; step = step / 2u) {
    if (lane < step) {
      sums[lane] += sums[lane + step];
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    sum_total = sums[0];
  }
  return workgroupUniformLoad(&sum_total);
}
