// Sums over the lanes of a workgroup, and a histogram of 256 bins, for a search by radix. Each function
// is to be called by all lanes.
// WG: lanes, a power of two, 4 to 256. BINS_A_LANE = 256 / WG. LANE_GROUPS = WG / 16, from 1 on.

var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> lane_sums: array<vec2u, WG>;
var<workgroup> found: vec4u;

// Sum of the values of the lanes before this one, and of all lanes. To be called by all lanes.
struct Scan {
  before: vec2u,
  total: vec2u,
}

#if WG > 16
// (WG / 16): of sixteen lanes each. A lane reads its sixteen and these, and not all WG.
var<workgroup> lane_groups: array<vec2u, LANE_GROUPS>;

fn scan(lane: u32, value: vec2u) -> Scan {
  workgroupBarrier();
  lane_sums[lane] = value;
  workgroupBarrier();
  let group = lane / 16u;
  var before = vec2u(0u);
#for j 16
  before += select(vec2u(0u), lane_sums[group * 16u + {j}u], {j}u < lane % 16u);
#endfor
  if (lane % 16u == 15u) {
    lane_groups[group] = before + value;
  }
  workgroupBarrier();
  var result = Scan(before, vec2u(0u));
  for (var other = 0u; other < LANE_GROUPS; other++) {
    let sum = lane_groups[other];
    result.before += select(vec2u(0u), sum, other < group);
    result.total += sum;
  }
  return result;
}

// Smallest first and largest second value of all lanes. To be called by all lanes.
fn reach(lane: u32, value: vec2u) -> vec2u {
  workgroupBarrier();
  lane_sums[lane] = value;
  workgroupBarrier();
  let group = lane / 16u;
  if (lane % 16u == 0u) {
    var ends = value;
#for j 16
    let ends_{j} = lane_sums[group * 16u + {j}u];
    ends = vec2u(min(ends.x, ends_{j}.x), max(ends.y, ends_{j}.y));
#endfor
    lane_groups[group] = ends;
  }
  workgroupBarrier();
  var result = lane_groups[0];
  for (var other = 1u; other < LANE_GROUPS; other++) {
    let ends = lane_groups[other];
    result = vec2u(min(result.x, ends.x), max(result.y, ends.y));
  }
  return result;
}
#else
fn scan(lane: u32, value: vec2u) -> Scan {
  workgroupBarrier();
  lane_sums[lane] = value;
  workgroupBarrier();
  var result = Scan(vec2u(0u), vec2u(0u));
  for (var other = 0u; other < WG; other += 4u) {
#for j 4
    let sum_{j} = lane_sums[other + {j}u];
    result.before += select(vec2u(0u), sum_{j}, other + {j}u < lane);
    result.total += sum_{j};
#endfor
  }
  return result;
}

// Smallest first and largest second value of all lanes. To be called by all lanes.
fn reach(lane: u32, value: vec2u) -> vec2u {
  workgroupBarrier();
  lane_sums[lane] = value;
  workgroupBarrier();
  var result = lane_sums[0];
  for (var other = 1u; other < WG; other++) {
    let ends = lane_sums[other];
    result = vec2u(min(result.x, ends.x), max(result.y, ends.y));
  }
  return result;
}
#endif

// The bin, from the highest down, with which `wanted` entries are reached; entries in the bins above
// it; entries in it. Leaves all bins empty. To be called by all lanes; the result is uniform.
fn find_bin(lane: u32, wanted: u32) -> vec3u {
  workgroupBarrier();
  let top = 255u - lane * BINS_A_LANE;
  var sum = 0u;
#for i BINS_A_LANE
  let bin_{i} = atomicLoad(&bins[top - {i}u]);
  sum += bin_{i};
#endfor
  var above = scan(lane, vec2u(sum, 0u)).before.x;
  var hit = vec3u(0u);
#for i BINS_A_LANE
  hit = select(
    hit,
    vec3u(top - {i}u, above, bin_{i}),
    above < wanted && above + bin_{i} >= wanted,
  );
  above += bin_{i};
  atomicStore(&bins[top - {i}u], 0u);
#endfor
  if (hit.z > 0u) {
    found = vec4u(hit, 0u);
  }
  return workgroupUniformLoad(&found).xyz;
}
