// stream: out[workgroup, lane] = sum of the words that the lane reads. How fast memory can be read.
//
// source   (workgroups, CHUNK) vec4u     read
// out      (workgroups, WG) vec4u        written, so that nothing is left out
//
// A workgroup reads CHUNK neighbouring vec4u, a lane every WG-th, UNROLL of them before it looks at
// its counter again.
//
// WG: lanes. CHUNK: vec4u of a workgroup, a multiple of WG * UNROLL. UNROLL.

@group(0) @binding(0) var<storage, read> source: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4u>;

#include "common/dispatch.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let begin = index * CHUNK + lane;
#for i UNROLL
  var sum_{i} = vec4u(0u);
#endfor
  for (var at = 0u; at < CHUNK; at += WG * UNROLL) {
#for i UNROLL
    sum_{i} += source[begin + at + {i}u * WG];
#endfor
  }
  var sum = vec4u(0u);
#for i UNROLL
  sum += sum_{i};
#endfor
  out[index * WG + lane] = sum;
}
