// Row of the slab of a key that `Attended` counts. Needs `pages` and what common/selection.wgsl needs.
// PAGE_SIZE.

#include "common/selection.wgsl"

// `table`: where the slot's page table begins.
fn row_of_key(attended: Attended, table: u32, key: u32) -> u32 {
  if (key >= attended.prefix && key < attended.before) {
    return selection[attended.list + key];
  }
  let position = key + select(0u, attended.shift, key >= attended.before);
  return pages[table + position / PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE;
}
