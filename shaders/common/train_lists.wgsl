// Candidates of a row of a training window, and sums over the lanes of a workgroup.
//
// WG: lanes. SUBGROUPS: the workgroup is one subgroup. FULL: every row so far is a candidate.

// Positions x .. y - 1; none where y <= x.
fn candidates_at(position: u32) -> vec2u {
#if FULL
  return vec2u(0u, position + 1u);
#else
  return vec2u(params.sinks, max(position + 1u, params.window) - params.window);
#endif
}

// 1 for those of four positions from 4 * quad on that lie in a range, else 0.
fn inside(quad: u32, range: vec2u) -> vec4f {
  let at = vec4u(quad * 4u) + vec4u(0u, 1u, 2u, 3u);
  return select(vec4f(0.0), vec4f(1.0), at >= vec4u(range.x) & at < vec4u(range.y));
}

#if !SUBGROUPS
var<workgroup> shared_by_lanes: array<f32, WG>;
#endif

fn lanes_sum(value: f32, lane: u32) -> f32 {
#if SUBGROUPS
  return subgroupAdd(value);
#else
  workgroupBarrier();
  shared_by_lanes[lane] = value;
  workgroupBarrier();
  var sum = 0.0;
#for other WG
  sum += shared_by_lanes[{other}u];
#endfor
  return sum;
#endif
}

fn lanes_max(value: f32, lane: u32) -> f32 {
#if SUBGROUPS
  return subgroupMax(value);
#else
  workgroupBarrier();
  shared_by_lanes[lane] = value;
  workgroupBarrier();
  var most = shared_by_lanes[0];
#for other WG
  most = max(most, shared_by_lanes[{other}u]);
#endfor
  return most;
#endif
}

fn max_of(v: vec4f) -> f32 {
  return max(max(v.x, v.y), max(v.z, v.w));
}

fn sum_of(v: vec4f) -> f32 {
  return dot(v, vec4f(1.0));
}
