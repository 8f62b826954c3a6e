// Cached keys, eight values at a time. Needs `k_cache` and `params`, and common/kv_rows.wgsl.

const page_rows = 32u;

// First value of the row of `position`, which lies in `page`.
fn cell_of(page: u32, kv_head: u32, position: u32) -> u32 {
  return ((page * params.num_kv_heads + kv_head) * page_rows + position % page_rows) * HEAD_DIM;
}

fn load_key(cell: u32, i: u32) -> Eight {
#if KV_TYPE == f16
  return eight(k_cache[cell / 8u + i]);
#else
  return Eight(k_cache[cell / 4u + 2u * i], k_cache[cell / 4u + 2u * i + 1u]);
#endif
}
