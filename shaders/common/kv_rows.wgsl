// Eight consecutive values of a cache row. The cache is an array of vec4: f16 pairs (KV_TYPE f16)
// or f32. Needs `k_cache`, and `v_cache` with VALUES. A cell is the index of a row's first value;
// i counts the eights from there.

#include "common/eight.wgsl"

fn load_key(cell: u32, i: u32) -> Eight {
#if KV_TYPE == f16
  return eight(k_cache[cell / 8u + i]);
#else
  return Eight(k_cache[cell / 4u + 2u * i], k_cache[cell / 4u + 2u * i + 1u]);
#endif
}

#if VALUES
fn load_value(cell: u32, i: u32) -> Eight {
#if KV_TYPE == f16
  return eight(v_cache[cell / 8u + i]);
#else
  return Eight(v_cache[cell / 4u + 2u * i], v_cache[cell / 4u + 2u * i + 1u]);
#endif
}
#endif
