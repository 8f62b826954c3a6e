// Sums over the lanes of a workgroup, and a histogram of 256 bins, for a search by radix. Each function
// is to be called by all lanes.
// WG: lanes, a power of two, 4 to 256. BINS_A_LANE = 256 / WG.

var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> lane_sums: array<vec2u, WG>;
var<workgroup> found: vec4u;

// Sum of the values of the lanes before this one, and of all lanes. To be called by all lanes.
struct Scan {
  before: vec2u,
  total: vec2u,
}

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
