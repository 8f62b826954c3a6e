// Which indices of a list are candidates. See src/gpu/ops/list_params.ts.
// UNIT: rows | pages, what a list's indices stand for. Needs `recipes` and `params`.

const sub_page = 16u;

fn mode_of(slot: u32) -> u32 {
  return recipes[slot * params.recipe_stride];
}

// (from, to): candidates are from <= index < to; none where both are equal.
fn candidates_of(slot: u32, position: u32) -> vec2u {
  let at = slot * params.recipe_stride;
  let first = recipes[at + 1u];
#if UNIT == pages
  // The page of the row itself is its window.
  let to = position / sub_page;
#else
  let to = position + 1u - min(recipes[at + 2u], position + 1u);
#endif
  return vec2u(first, max(first, to));
}
