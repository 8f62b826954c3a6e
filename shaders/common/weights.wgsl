// Weights of a row, eight at a time, unpacked in registers.
//
// A row is a run of blocks of its storage type, each padded to whole words by the host
// (src/gpu/weight_layout.ts). A "unit" is eight weights that lie together in one or two words:
//   load_unit(base, u)   -> the weights; `base` is the word where the row starts
//   unit_x(u)            -> where in the activation row (in vec4s) each half belongs
// Quantised types keep four neighbours in `a` and four others of the same word in `b`. The weights
// are `scale.x * a + shift.x` and `scale.y * b + shift.y`: a product with one token applies scale
// and shift to the sums, a product with many unpacks once (`weight_a`, `weight_b`).
// WEIGHT_TYPE: name of the type. UNIT_ORDER: how the halves lie in the row.

struct Unit {
  a: vec4f,
  b: vec4f,
  scale: vec2f,
  shift: vec2f,
}

fn weight_a(unit: Unit) -> vec4f {
#if HAS_SHIFT
  return unit.scale.x * unit.a + unit.shift.x;
#else
#if HAS_SCALE
  return unit.scale.x * unit.a;
#else
  return unit.a;
#endif
#endif
}

fn weight_b(unit: Unit) -> vec4f {
#if HAS_SHIFT
  return unit.scale.y * unit.b + unit.shift.y;
#else
#if HAS_SCALE
  return unit.scale.y * unit.b;
#else
  return unit.b;
#endif
#endif
}

// Sum of weights times activations; `sums` are the sums of xa and of xb.
fn unit_dot(unit: Unit, xa: vec4f, xb: vec4f, sums: vec2f) -> f32 {
#if HAS_SHIFT
  return dot(unit.scale, vec2f(dot(unit.a, xa), dot(unit.b, xb))) + dot(unit.shift, sums);
#else
#if HAS_SCALE
  return dot(unit.scale, vec2f(dot(unit.a, xa), dot(unit.b, xb)));
#else
  return dot(unit.a, xa) + dot(unit.b, xb);
#endif
#endif
}

// Bytes below 128 as numbers. Signed conversion: unsigned ones take several instructions on CPUs.
fn bytes(word: u32) -> vec4f {
  return vec4f(unpack4xI8(word));
}

fn nibbles_low(word: u32) -> vec4f {
  return bytes(word & 0x0f0f0f0fu);
}

fn nibbles_high(word: u32) -> vec4f {
  return bytes((word >> 4u) & 0x0f0f0f0fu);
}

fn small(value: u32) -> f32 {
  return f32(i32(value));
}

// Byte `index` of the bytes that start at word `base`.
fn byte_at(base: u32, index: u32) -> u32 {
  return (weights[base + (index >> 2u)] >> ((index & 3u) * 8u)) & 0xffu;
}

#if WEIGHT_TYPE == F32
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + u * 8u;
  return Unit(
    bitcast<vec4f>(vec4u(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u])),
    bitcast<vec4f>(vec4u(weights[at + 4u], weights[at + 5u], weights[at + 6u], weights[at + 7u])),
    vec2f(1.0),
    vec2f(0.0),
  );
}
#endif

#if WEIGHT_TYPE == F16
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + u * 4u;
  return Unit(
    vec4f(unpack2x16float(weights[at]), unpack2x16float(weights[at + 1u])),
    vec4f(unpack2x16float(weights[at + 2u]), unpack2x16float(weights[at + 3u])),
    vec2f(1.0),
    vec2f(0.0),
  );
}
#endif

#if WEIGHT_TYPE == BF16
fn bf16_pair(word: u32) -> vec2f {
  return bitcast<vec2f>(vec2u(word << 16u, word & 0xffff0000u));
}

fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + u * 4u;
  return Unit(
    vec4f(bf16_pair(weights[at]), bf16_pair(weights[at + 1u])),
    vec4f(bf16_pair(weights[at + 2u]), bf16_pair(weights[at + 3u])),
    vec2f(1.0),
    vec2f(0.0),
  );
}
#endif

#if WEIGHT_TYPE == Q8_0
// 9 words a block of 32: scale (f16), 32 signed bytes.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 2u) * 9u;
  let q = at + 1u + (u & 3u) * 2u;
  let d = unpack2x16float(weights[at]).x;
  return Unit(bytes(weights[q]), bytes(weights[q + 1u]), vec2f(d), vec2f(0.0));
}
#endif

#if WEIGHT_TYPE == Q4_0
// 5 words a block of 32: scale (f16), 16 bytes; low nibbles are weights 0..15, high 16..31.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 2u) * 5u;
  let word = weights[at + 1u + (u & 3u)];
  let d = unpack2x16float(weights[at]).x;
  return Unit(nibbles_low(word) - 8.0, nibbles_high(word) - 8.0, vec2f(d), vec2f(0.0));
}
#endif

#if WEIGHT_TYPE == Q4_1
// 5 words a block of 32: scale and minimum (f16), 16 bytes as in Q4_0.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 2u) * 5u;
  let word = weights[at + 1u + (u & 3u)];
  let dm = unpack2x16float(weights[at]);
  return Unit(nibbles_low(word), nibbles_high(word), vec2f(dm.x), vec2f(dm.y));
}
#endif

#if WEIGHT_TYPE == Q5_0
// 6 words a block of 32: scale (f16), 32 high bits, 16 bytes of low nibbles as in Q4_0.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 2u) * 6u;
  let g = u & 3u;
  let word = weights[at + 2u + g];
  let high = weights[at + 1u];
  let d = unpack2x16float(weights[at]).x;
  return Unit(
    nibbles_low(word) + high_bits(high >> (4u * g)) - 16.0,
    nibbles_high(word) + high_bits(high >> (16u + 4u * g)) - 16.0,
    vec2f(d),
    vec2f(0.0),
  );
}
#endif

#if WEIGHT_TYPE == Q5_1
// 6 words a block of 32: scale and minimum (f16), 32 high bits, 16 bytes of low nibbles.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 2u) * 6u;
  let g = u & 3u;
  let word = weights[at + 2u + g];
  let high = weights[at + 1u];
  let dm = unpack2x16float(weights[at]);
  return Unit(
    nibbles_low(word) + high_bits(high >> (4u * g)),
    nibbles_high(word) + high_bits(high >> (16u + 4u * g)),
    vec2f(dm.x),
    vec2f(dm.y),
  );
}
#endif

// The lowest four bits, each worth 16.
fn high_bits(bits: u32) -> vec4f {
  return vec4f(vec4i(((vec4u(bits) >> vec4u(0u, 1u, 2u, 3u)) & vec4u(1u)) << vec4u(4u)));
}

#if WEIGHT_TYPE == Q2_K
// 21 words a block of 256: 16 bytes (scale, minimum in nibbles), 64 bytes of 2-bit values, d and
// dmin (f16). Byte l of half n holds weights 128 n + 32 j + l at bits 2 j.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 5u) * 21u;
  let half = (u >> 4u) & 1u;
  let pair = (u >> 3u) & 1u;
  let g = u & 7u;
  let word = weights[at + 4u + half * 8u + g] >> (4u * pair);
  let dm = unpack2x16float(weights[at + 20u]);
  let first = half * 8u + pair * 4u + (g >> 2u);
  let sa = byte_at(at, first);
  let sb = byte_at(at, first + 2u);
  return Unit(
    bytes(word & 0x03030303u),
    bytes((word >> 2u) & 0x03030303u),
    dm.x * vec2f(small(sa & 15u), small(sb & 15u)),
    -dm.y * vec2f(small(sa >> 4u), small(sb >> 4u)),
  );
}
#endif

#if WEIGHT_TYPE == Q3_K
// 28 words a block of 256: 32 bytes of high bits, 64 bytes of 2-bit values as in Q2_K, 12 bytes of
// 6-bit scales, d (f16).
fn scale_q3(at: u32, index: u32) -> f32 {
  let low = (byte_at(at + 24u, index & 7u) >> ((index >> 3u) * 4u)) & 15u;
  let high = (byte_at(at + 24u, 8u + (index & 3u)) >> ((index >> 2u) * 2u)) & 3u;
  return f32(i32(low | (high << 4u)) - 32);
}

fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 5u) * 28u;
  let half = (u >> 4u) & 1u;
  let pair = (u >> 3u) & 1u;
  let g = u & 7u;
  let word = weights[at + 8u + half * 8u + g] >> (4u * pair);
  let mask = weights[at + g] >> (4u * half + 2u * pair);
  let d = unpack2x16float(weights[at + 27u]).x;
  let first = half * 8u + pair * 4u + (g >> 2u);
  let qa = bytes((word & 0x03030303u) | ((mask & 0x01010101u) << 2u)) - 4.0;
  let qb = bytes(((word >> 2u) & 0x03030303u) | (((mask >> 1u) & 0x01010101u) << 2u)) - 4.0;
  let scale = d * vec2f(scale_q3(at, first), scale_q3(at, first + 2u));
  return Unit(qa, qb, scale, vec2f(0.0));
}
#endif

#if WEIGHT_TYPE == Q4_K
// 36 words a block of 256: d and dmin (f16), 12 bytes of 6-bit scales and minima, 128 bytes; in
// each run of 32 bytes low nibbles are 32 weights, high nibbles the next 32.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 5u) * 36u;
  let r = u & 31u;
  let word = weights[at + 4u + r];
  let dm = unpack2x16float(weights[at]);
  let sa = dm * scale_min_k(at + 1u, (r >> 3u) * 2u);
  let sb = dm * scale_min_k(at + 1u, (r >> 3u) * 2u + 1u);
  return Unit(nibbles_low(word), nibbles_high(word), vec2f(sa.x, sb.x), -vec2f(sa.y, sb.y));
}
#endif

#if WEIGHT_TYPE == Q5_K
// 44 words a block of 256: as Q4_K, with 32 bytes of high bits before the nibbles.
fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 5u) * 44u;
  let r = u & 31u;
  let j = r >> 3u;
  let word = weights[at + 12u + r];
  let high = weights[at + 4u + (r & 7u)] >> (2u * j);
  let dm = unpack2x16float(weights[at]);
  let sa = dm * scale_min_k(at + 1u, j * 2u);
  let sb = dm * scale_min_k(at + 1u, j * 2u + 1u);
  let qa = (word & 0x0f0f0f0fu) | ((high & 0x01010101u) << 4u);
  let qb = ((word >> 4u) & 0x0f0f0f0fu) | (((high >> 1u) & 0x01010101u) << 4u);
  return Unit(bytes(qa), bytes(qb), vec2f(sa.x, sb.x), -vec2f(sa.y, sb.y));
}
#endif

// Scale and minimum number `index` of the 12 bytes at word `at` (Q4_K, Q5_K).
fn scale_min_k(at: u32, index: u32) -> vec2f {
  let low = byte_at(at, index & 3u);
  let middle = byte_at(at, 4u + (index & 3u));
  if (index < 4u) {
    return vec2f(small(low & 63u), small(middle & 63u));
  }
  let high = byte_at(at, 8u + (index & 3u));
  return vec2f(
    small((high & 15u) | ((low >> 6u) << 4u)),
    small((high >> 4u) | ((middle >> 6u) << 4u)),
  );
}

#if WEIGHT_TYPE == Q6_K
// 53 words a block of 256: 128 bytes of low nibbles, 64 bytes of 2-bit high parts, 16 signed
// scales, d (f16).
fn scale_q6(at: u32, index: u32) -> f32 {
  return f32(bitcast<i32>(byte_at(at + 48u, index) << 24u) >> 24u);
}

fn load_unit(base: u32, u: u32) -> Unit {
  let at = base + (u >> 5u) * 53u;
  let r = u & 31u;
  let n = r >> 4u;
  let half = (r >> 3u) & 1u;
  let g = r & 7u;
  let word = weights[at + r];
  let high = weights[at + 32u + 8u * n + g] >> (2u * half);
  let d = unpack2x16float(weights[at + 52u]).x;
  let first = 8u * n + 2u * half + (g >> 2u);
  let qa = (word & 0x0f0f0f0fu) | ((high & 0x03030303u) << 4u);
  let qb = ((word >> 4u) & 0x0f0f0f0fu) | (high & 0x30303030u);
  let scale = d * vec2f(scale_q6(at, first), scale_q6(at, first + 4u));
  return Unit(bytes(qa) - 32.0, bytes(qb) - 32.0, scale, vec2f(0.0));
}
#endif

// Positions, in vec4s of the activation row, of the two halves of a unit.
fn unit_x(u: u32) -> vec2u {
#if UNIT_ORDER == linear
  return vec2u(u * 2u, u * 2u + 1u);
#endif
#if UNIT_ORDER == split16
  let at = (u >> 2u) * 8u + (u & 3u);
  return vec2u(at, at + 4u);
#endif
#if UNIT_ORDER == split32
  let at = (u >> 3u) * 16u + (u & 7u);
  return vec2u(at, at + 8u);
#endif
#if UNIT_ORDER == split64
  let at = (u >> 4u) * 32u + (u & 15u);
  return vec2u(at, at + 16u);
#endif
}
