// Linear workgroup number of a dispatch that the host may have folded into two dimensions.
fn workgroup_index(id: vec3u, count: vec3u) -> u32 {
  return id.y * count.x + id.x;
}
