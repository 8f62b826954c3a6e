// K-quants: blocks of 256 weights, unpacked as common/weights.wgsl says, which includes this and has
// the helpers (`word`, `bytes`, `nibbles_low`, `small`).
//
// WEIGHT_TYPE: name of the type. SIX_BIT_SCALES: whether its blocks start with six-bit scales.

#if WEIGHT_TYPE == Q2_K
// 6 vec4u a block of 256: 16 bytes (scale, minimum in nibbles), 64 bytes of 2-bit values, d and
// dmin (f16). Byte l of half n holds weights 128 n + 32 j + l at bits 2 j.
struct Header {
  scales: vec2f,
  minima: vec2f,
  shift: u32,
}

// Of the units of block `at` that share half, pair of planes and quarter: unit r.
fn header_of(at: u32, r: u32) -> Header {
  let half = (r >> 4u) & 1u;
  let pair = (r >> 3u) & 1u;
  let first = half * 8u + pair * 4u + ((r & 7u) >> 2u);
  let dm = unpack2x16float(weights[at + 5u].x);
  let scales = weights[at];
  let sa = byte_of(scales, first);
  let sb = byte_of(scales, first + 2u);
  return Header(
    dm.x * vec2f(small(sa & 15u), small(sb & 15u)),
    -dm.y * vec2f(small(sa >> 4u), small(sb >> 4u)),
    4u * pair,
  );
}

fn byte_of(words: vec4u, index: u32) -> u32 {
  return (words[index >> 2u] >> ((index & 3u) * 8u)) & 0xffu;
}

fn unit_of(q: u32, h: Header) -> Unit {
  let value = q >> h.shift;
  return Unit(bytes(value & 0x03030303u), bytes((value >> 2u) & 0x03030303u), h.scales, h.minima);
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  let at = row + (u >> 5u) * 6u;
  let half = (u >> 4u) & 1u;
  return unit_of(word(at, 4u + half * 8u + (u & 7u)), header_of(at, u & 31u));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let at = row + (i >> 3u) * 6u;
  let q = weights[at + 1u + ((i >> 2u) & 1u) * 2u + (i & 1u)];
  let h = header_of(at, (i & 7u) * 4u);
  return Quad(unit_of(q.x, h), unit_of(q.y, h), unit_of(q.z, h), unit_of(q.w, h));
}
#endif

#if WEIGHT_TYPE == Q3_K
// 7 vec4u a block of 256: 32 bytes of high bits, 64 bytes of 2-bit values as in Q2_K, 12 bytes of
// 6-bit scales, d (f16).
struct Header {
  scales: vec2f,
  shift: u32,
  mask_shift: u32,
}

fn scale_of(words: vec4u, index: u32) -> f32 {
  let low = (words[(index & 7u) >> 2u] >> ((index & 3u) * 8u + (index >> 3u) * 4u)) & 15u;
  let high = (words.z >> ((index & 3u) * 8u + (index >> 2u) * 2u)) & 3u;
  return f32(i32(low | (high << 4u)) - 32);
}

fn header_of(at: u32, r: u32) -> Header {
  let half = (r >> 4u) & 1u;
  let pair = (r >> 3u) & 1u;
  let first = half * 8u + pair * 4u + ((r & 7u) >> 2u);
  let words = weights[at + 6u];
  let d = unpack2x16float(words.w).x;
  return Header(
    d * vec2f(scale_of(words, first), scale_of(words, first + 2u)),
    4u * pair,
    4u * half + 2u * pair,
  );
}

fn unit_of(q: u32, mask: u32, h: Header) -> Unit {
  let value = q >> h.shift;
  let bits = mask >> h.mask_shift;
  return Unit(
    bytes((value & 0x03030303u) | ((bits & 0x01010101u) << 2u)) - 4.0,
    bytes(((value >> 2u) & 0x03030303u) | (((bits >> 1u) & 0x01010101u) << 2u)) - 4.0,
    h.scales,
    vec2f(0.0),
  );
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  let at = row + (u >> 5u) * 7u;
  let q = word(at, 8u + ((u >> 4u) & 1u) * 8u + (u & 7u));
  return unit_of(q, word(at, u & 7u), header_of(at, u & 31u));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let at = row + (i >> 3u) * 7u;
  let q = weights[at + 2u + ((i >> 2u) & 1u) * 2u + (i & 1u)];
  let mask = weights[at + (i & 1u)];
  let h = header_of(at, (i & 7u) * 4u);
  return Quad(
    unit_of(q.x, mask.x, h),
    unit_of(q.y, mask.y, h),
    unit_of(q.z, mask.z, h),
    unit_of(q.w, mask.w, h),
  );
}
#endif

#if SIX_BIT_SCALES
// First vec4u of a block: d and dmin (f16), 12 bytes of 6-bit scales and minima.
struct Header {
  scales: vec2f,
  minima: vec2f,
}

// Scale and minimum number `index`.
fn scale_min(words: vec4u, index: u32) -> vec2f {
  let shift = (index & 3u) * 8u;
  let low = (words.y >> shift) & 0xffu;
  let middle = (words.z >> shift) & 0xffu;
  let high = (words.w >> shift) & 0xffu;
  let early = vec2u(low & 63u, middle & 63u);
  let late = vec2u((high & 15u) | ((low >> 6u) << 4u), (high >> 4u) | ((middle >> 6u) << 4u));
  return vec2f(vec2i(select(late, early, index < 4u)));
}

// Of the units r = 8 j .. 8 j + 7 of a block: low nibbles are run 2 j of 32 weights, high ones the
// next run.
fn header_of(at: u32, j: u32) -> Header {
  let words = weights[at];
  let dm = unpack2x16float(words.x);
  let sa = dm * scale_min(words, 2u * j);
  let sb = dm * scale_min(words, 2u * j + 1u);
  return Header(vec2f(sa.x, sb.x), -vec2f(sa.y, sb.y));
}
#endif

#if WEIGHT_TYPE == Q4_K
// 9 vec4u a block of 256: header, 128 bytes of nibbles.
fn unit_of(q: u32, h: Header) -> Unit {
  return Unit(nibbles_low(q), nibbles_high(q), h.scales, h.minima);
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  let at = row + (u >> 5u) * 9u;
  return unit_of(word(at, 4u + (u & 31u)), header_of(at, (u & 31u) >> 3u));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let at = row + (i >> 3u) * 9u;
  let q = weights[at + 1u + (i & 7u)];
  let h = header_of(at, (i & 7u) >> 1u);
  return Quad(unit_of(q.x, h), unit_of(q.y, h), unit_of(q.z, h), unit_of(q.w, h));
}
#endif

#if WEIGHT_TYPE == Q5_K
// 11 vec4u a block of 256: header, 32 bytes of high bits, 128 bytes of nibbles.
fn unit_of(q: u32, high: u32, h: Header) -> Unit {
  let a = (q & 0x0f0f0f0fu) | ((high & 0x01010101u) << 4u);
  let b = ((q >> 4u) & 0x0f0f0f0fu) | (((high >> 1u) & 0x01010101u) << 4u);
  return Unit(bytes(a), bytes(b), h.scales, h.minima);
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  let at = row + (u >> 5u) * 11u;
  let j = (u & 31u) >> 3u;
  let high = word(at, 4u + (u & 7u)) >> (2u * j);
  return unit_of(word(at, 12u + (u & 31u)), high, header_of(at, j));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let at = row + (i >> 3u) * 11u;
  let j = (i & 7u) >> 1u;
  let q = weights[at + 3u + (i & 7u)];
  let high = weights[at + 1u + (i & 1u)] >> vec4u(2u * j);
  let h = header_of(at, j);
  return Quad(
    unit_of(q.x, high.x, h),
    unit_of(q.y, high.y, h),
    unit_of(q.z, high.z, h),
    unit_of(q.w, high.w, h),
  );
}
#endif

#if WEIGHT_TYPE == Q6_K
// 14 vec4u a block of 256: 128 bytes of low nibbles, 64 bytes of 2-bit high parts, 16 signed
// scales, d (f16).
fn scale_of(words: vec4u, index: u32) -> f32 {
  return f32(extractBits(bitcast<i32>(words[index >> 2u]), (index & 3u) * 8u, 8u));
}

// Scales of unit r of the block at `at`.
fn scales_of(at: u32, r: u32) -> vec2f {
  let first = 8u * (r >> 4u) + 2u * ((r >> 3u) & 1u) + ((r & 7u) >> 2u);
  let words = weights[at + 12u];
  let d = unpack2x16float(weights[at + 13u].x).x;
  return d * vec2f(scale_of(words, first), scale_of(words, first + 4u));
}

fn unit_of(q: u32, high: u32, scales: vec2f) -> Unit {
  let a = (q & 0x0f0f0f0fu) | ((high & 0x03030303u) << 4u);
  let b = ((q >> 4u) & 0x0f0f0f0fu) | (high & 0x30303030u);
  return Unit(bytes(a) - 32.0, bytes(b) - 32.0, scales, vec2f(0.0));
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  let at = row + (u >> 5u) * 14u;
  let r = u & 31u;
  let high = word(at, 32u + 8u * (r >> 4u) + (r & 7u)) >> (2u * ((r >> 3u) & 1u));
  return unit_of(word(at, r), high, scales_of(at, r));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let at = row + (i >> 3u) * 14u;
  let q = weights[at + (i & 7u)];
  let high = weights[at + 8u + 2u * ((i >> 2u) & 1u) + (i & 1u)] >> vec4u(2u * ((i >> 1u) & 1u));
  let s = scales_of(at, (i & 7u) * 4u);
  return Quad(
    unit_of(q.x, high.x, s),
    unit_of(q.y, high.y, s),
    unit_of(q.z, high.z, s),
    unit_of(q.w, high.w, s),
  );
}
#endif
