// What a row of the step attends to, where that is not every row so far: rows 0 .. prefix - 1 of the
// sequence, then the listed rows of the KV head, then a window of the most recent rows.
//
// selection  (slots, params.selection_stride) u32: mode (0: every row, 1: these), prefix, first row of
//            the window (0xffffffff: it slides), rows of a sliding window, the count of each KV head
//            padded to a multiple of four, then (kv_heads, params.list_capacity) rows of the slab.
//
// Keys are numbered over that concatenation. Needs `selection` and `params`.

struct Attended {
  prefix: u32,
  // Keys before the window.
  before: u32,
  // What makes a position of a key of the window, modulo 2^32.
  shift: u32,
  // Word of the list that belongs to key 0, modulo 2^32.
  list: u32,
  // Keys in all.
  total: u32,
}

fn is_selected(slot: u32) -> bool {
  return selection[slot * params.selection_stride] != 0u;
}

// Of a slot whose rows are selected. Position 0xffffffff: the sequence has no rows but the list's.
fn attended_of(slot: u32, kv_head: u32, position: u32) -> Attended {
  let base = slot * params.selection_stride;
  let rows_so_far = position + 1u;
  let prefix = min(selection[base + 1u], rows_so_far);
  let fixed = selection[base + 2u];
  let sliding = rows_so_far - min(selection[base + 3u], rows_so_far);
  let start = clamp(select(fixed, sliding, fixed == 0xffffffffu), prefix, rows_so_far);
  let before = prefix + min(selection[base + 4u + kv_head], params.list_capacity);
  let lists = base + 4u + (params.num_kv_heads + 3u) / 4u * 4u;
  return Attended(
    prefix,
    before,
    start - before,
    lists + kv_head * params.list_capacity - prefix,
    before + rows_so_far - start,
  );
}
