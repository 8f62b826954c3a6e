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

#include "common/weights_k.wgsl"
