// Weights of a row, unpacked in registers.
//
// A row is a run of vec4u; src/gpu/weight_layout.ts says how each storage type lies in it. A "unit"
// is eight weights that lie together in one or two words, a "quad" four units in a row:
//   load_unit(row, u, units), load_quad(row, i, units)
//       -> the weights; `row` is the vec4u where the row starts, `units` how many it has
//   unit_x(u)
//       -> where in the activation row (in vec4s) each half of a unit belongs
// Unit g of quad i is unit 4 i + g of the row; its halves belong X_STEP * g after those of unit 4 i.
// Quantised types keep four neighbours in `a` and four others of the same word in `b`. The weights
// are `scale.x * a + shift.x` and `scale.y * b + shift.y`: a product with one token applies scale
// and shift to the sums, a product with many unpacks once (`weight_a`, `weight_b`).
//
// WEIGHT_TYPE: name of the type. UNIT_ORDER: how the halves lie in the row. HAS_SCALE, HAS_SHIFT:
// whether scale and shift are other than 1 and 0.

struct Unit {
  a: vec4f,
  b: vec4f,
  scale: vec2f,
  shift: vec2f,
}

struct Quad {
  first: Unit,
  second: Unit,
  third: Unit,
  fourth: Unit,
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

fn word(row: u32, at: u32) -> u32 {
  return weights[row + (at >> 2u)][at & 3u];
}

// Bytes below 128 as numbers. Signed conversion: unsigned ones take several instructions on CPUs.
fn bytes(value: u32) -> vec4f {
  return vec4f(unpack4xI8(value));
}

fn nibbles_low(value: u32) -> vec4f {
  return bytes(value & 0x0f0f0f0fu);
}

fn nibbles_high(value: u32) -> vec4f {
  return bytes((value >> 4u) & 0x0f0f0f0fu);
}

fn small(value: u32) -> f32 {
  return f32(i32(value));
}

#if WEIGHT_TYPE == F32
fn unit_of(low: vec4u, high: vec4u) -> Unit {
  return Unit(bitcast<vec4f>(low), bitcast<vec4f>(high), vec2f(1.0), vec2f(0.0));
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  return unit_of(weights[row + u * 2u], weights[row + u * 2u + 1u]);
}
#endif

#if WEIGHT_TYPE == F16
fn unit_of(words: vec4u) -> Unit {
  return Unit(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w)),
    vec2f(1.0),
    vec2f(0.0),
  );
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  return unit_of(weights[row + u]);
}
#endif

#if WEIGHT_TYPE == BF16
fn unit_of(words: vec4u) -> Unit {
  return Unit(
    bitcast<vec4f>(vec4u(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u)),
    bitcast<vec4f>(vec4u(words.z << 16u, words.z & 0xffff0000u, words.w << 16u, words.w & 0xffff0000u)),
    vec2f(1.0),
    vec2f(0.0),
  );
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  return unit_of(weights[row + u]);
}
#endif

#if QUAD_LOADS == units
fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  return Quad(
    load_unit(row, i * 4u, units),
    load_unit(row, i * 4u + 1u, units),
    load_unit(row, i * 4u + 2u, units),
    load_unit(row, i * 4u + 3u, units),
  );
}
#endif

#if WEIGHT_TYPE == Q8_0
// Blocks of 32: all signed bytes of the row, then the scales, two f16 in a word.
fn scale_of(row: u32, block: u32, units: u32) -> f32 {
  return unpack2x16float(word(row, units * 2u + (block >> 1u)))[block & 1u];
}

fn unit_of(low: u32, high: u32, d: f32) -> Unit {
  return Unit(bytes(low), bytes(high), vec2f(d), vec2f(0.0));
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  return unit_of(word(row, u * 2u), word(row, u * 2u + 1u), scale_of(row, u >> 2u, units));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let p = weights[row + i * 2u];
  let q = weights[row + i * 2u + 1u];
  let d = scale_of(row, i, units);
  return Quad(unit_of(p.x, p.y, d), unit_of(p.z, p.w, d), unit_of(q.x, q.y, d), unit_of(q.z, q.w, d));
}
#endif

#if WEIGHT_TYPE == Q4_0
// Blocks of 32: all nibbles of the row (low ones are weights 0..15 of a block, high ones 16..31),
// then the scales, two f16 in a word.
fn scale_of(row: u32, block: u32, units: u32) -> f32 {
  return unpack2x16float(word(row, units + (block >> 1u)))[block & 1u];
}

fn unit_of(q: u32, d: f32) -> Unit {
  return Unit(nibbles_low(q) - 8.0, nibbles_high(q) - 8.0, vec2f(d), vec2f(0.0));
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  return unit_of(word(row, u), scale_of(row, u >> 2u, units));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let q = weights[row + i];
  let d = scale_of(row, i, units);
  return Quad(unit_of(q.x, d), unit_of(q.y, d), unit_of(q.z, d), unit_of(q.w, d));
}
#endif

#if WEIGHT_TYPE == Q4_1
// Blocks of 32: nibbles as in Q4_0, then scale and minimum (f16) of each block in a word.
fn unit_of(q: u32, dm: vec2f) -> Unit {
  return Unit(nibbles_low(q), nibbles_high(q), vec2f(dm.x), vec2f(dm.y));
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  return unit_of(word(row, u), unpack2x16float(word(row, units + (u >> 2u))));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let q = weights[row + i];
  let dm = unpack2x16float(word(row, units + i));
  return Quad(unit_of(q.x, dm), unit_of(q.y, dm), unit_of(q.z, dm), unit_of(q.w, dm));
}
#endif

#if HIGH_BITS
// The lowest four bits, each worth 16.
fn high_bits(bits: u32) -> vec4f {
  return vec4f(vec4i(((vec4u(bits) >> vec4u(0u, 1u, 2u, 3u)) & vec4u(1u)) << vec4u(4u)));
}

// Unit g of a block: nibbles of one word, and the block's 32 high bits.
fn unit_of(q: u32, bits: u32, g: u32, dm: vec2f) -> Unit {
  let a = nibbles_low(q) + high_bits(bits >> (4u * g));
  let b = nibbles_high(q) + high_bits(bits >> (16u + 4u * g));
#if WEIGHT_TYPE == Q5_0
  return Unit(a - 16.0, b - 16.0, vec2f(dm.x), vec2f(0.0));
#else
  return Unit(a, b, vec2f(dm.x), vec2f(dm.y));
#endif
}

// Blocks of 32: nibbles as in Q4_0, then the high bits of each block in a word, then as Q4_0 (Q5_0)
// or Q4_1 (Q5_1).
fn scale_of(row: u32, block: u32, units: u32) -> vec2f {
  let at = units + (units >> 2u);
#if WEIGHT_TYPE == Q5_0
  return vec2f(unpack2x16float(word(row, at + (block >> 1u)))[block & 1u], 0.0);
#else
  return unpack2x16float(word(row, at + block));
#endif
}

fn load_unit(row: u32, u: u32, units: u32) -> Unit {
  let block = u >> 2u;
  return unit_of(word(row, u), word(row, units + block), u & 3u, scale_of(row, block, units));
}

fn load_quad(row: u32, i: u32, units: u32) -> Quad {
  let q = weights[row + i];
  let bits = word(row, units + i);
  let dm = scale_of(row, i, units);
  return Quad(
    unit_of(q.x, bits, 0u, dm),
    unit_of(q.y, bits, 1u, dm),
    unit_of(q.z, bits, 2u, dm),
    unit_of(q.w, bits, 3u, dm),
  );
}
#endif

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
