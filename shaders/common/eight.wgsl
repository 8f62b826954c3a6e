// Eight consecutive values of a row, from f16 pairs.

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
