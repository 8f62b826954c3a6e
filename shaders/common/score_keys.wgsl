// Scores as numbers that compare like them. Read as bits, because a compiler may assume that floats
// are never NaN or infinite.

// Larger score, larger key. NaN counts as -infinity, -0 as 0; no score has key 0.
fn keys_of(bits: vec4u) -> vec4u {
  let magnitude = bits & vec4u(0x7fffffffu);
  let turned = bits ^ (bitcast<vec4u>(bitcast<vec4i>(bits) >> vec4u(31u)) | vec4u(0x80000000u));
  let whole = select(turned, vec4u(0x80000000u), magnitude == vec4u(0u));
  return select(whole, vec4u(0x007fffffu), magnitude > vec4u(0x7f800000u));
}

fn largest_of(v: vec4u) -> u32 {
  return max(max(v.x, v.y), max(v.z, v.w));
}
