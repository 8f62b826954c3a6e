// Cached keys, eight values at a time. Needs `k_cache` and `params`, and common/kv_rows.wgsl.

const page_rows = 32u;

// First value of the row of `position`, which lies in `page`.
fn cell_of(page: u32, kv_head: u32, position: u32) -> u32 {
  return ((page * params.num_kv_heads + kv_head) * page_rows + position % page_rows) * HEAD_DIM;
}
