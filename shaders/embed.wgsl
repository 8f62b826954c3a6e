// embed: x[row] = unpacked row `token` of the embedding matrix.
//
// weights      (rows of this part, row_vecs) vec4u, see common/weights.wgsl   read
// rows         (rows of the step) vec4u: token, slot, position, 0      read
// last_tokens  (slots) u32: what the sampler chose last                read
// x            (rows, x_stride) vec4f                                  written
//
// One workgroup a row; its lanes take a unit each. A token of TOKEN_FROM_DEVICE means the one that
// was sampled last for the slot. A part skips tokens that lie in other parts of a split matrix.
//
// WG: lanes. The weight defines: see common/weights.wgsl.

@group(0) @binding(0) var<storage, read> weights: array<vec4u>;
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
@group(0) @binding(2) var<storage, read> last_tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(4) var<uniform> params: EmbedParams;
@group(0) @binding(5) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#include "common/weights.wgsl"

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = workgroup_index(id, count);
  if (row >= step.num_rows) {
    return;
  }
  let info = rows[step.first_row + row];
  var token = info.x;
  if (token == TOKEN_FROM_DEVICE) {
    token = last_tokens[info.y];
  }
  if (token < params.first_token || token >= params.first_token + params.num_tokens) {
    return;
  }
  let base = (token - params.first_token) * params.row_vecs;
  for (var u = lane; u < params.units; u += WG) {
    let unit = load_unit(base, u, params.units);
    let at = unit_x(u);
    x[row * params.x_stride + at.x] = weight_a(unit);
    x[row * params.x_stride + at.y] = weight_b(unit);
  }
}
