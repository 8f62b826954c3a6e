// Eight consecutive values of a cache row. The cache is an array of vec4: f16 pairs (KV_TYPE f16)
// or f32.

struct Eight {
  a: vec4f,
  b: vec4f,
}

fn eight(words: vec4u) -> Eight {
  return Eight(
    vec4f(unpack2x16float(words.x), unpack2x16float(words.y)),
    vec4f(unpack2x16float(words.z), unpack2x16float(words.w)),
  );
}
