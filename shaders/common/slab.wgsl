// Where the rows of a slab lie: pages of PAGE_SIZE rows, (pages, kv_heads, PAGE_SIZE, HEAD_DIM). Row r
// is row r % PAGE_SIZE of page r / PAGE_SIZE. Needs `params`.

// First value of a row of a KV head.
fn cell_of_row(row: u32, kv_head: u32) -> u32 {
  let page = row / PAGE_SIZE * params.num_kv_heads + kv_head;
  return (page * PAGE_SIZE + row % PAGE_SIZE) * HEAD_DIM;
}
