// attention_merge: out[row, head] = sum_s e^(max_s - max) sums_s / sum_s e^(max_s - max) norm_s over
// the splits of a row's keys, and, with CARRY, over what earlier passes over other keys left behind.
//
// partial    (rows, heads, max_splits, HEAD_DIM + 4) f32: sums, maximum, normaliser   read
// rows       (rows of the step) vec4u: token, slot, position, 0                       read
// selection  see common/selection.wgsl; only with SELECTION                           read
// out        (rows, heads, HEAD_DIM) f32                                              written
// carry      (rows, heads, HEAD_DIM + 4) f32, as partial; only with CARRY             read, written
// lse        f32 at params.lse_stride * row + params.lse_offset + head: maximum plus logarithm of the
//            normaliser; only with LSE                                                written
//
// The splits of a row are those that attention made: of its position, or, with SELECTION and where the
// slot's rows are selected, of what its KV head attends to. Without params.partial_only, rows with one
// split are done, and get no lse.
//
// With CARRY, a pass with params.first_pass takes no notice of what is in `carry`, a pass with
// params.last_pass writes `out` (and `lse`), any other writes `carry`. A row without keys in a pass is
// left as it is; one without any in all passes gets zeros.
//
// One workgroup a head of a row, lanes along the head dimension.
//
// WG: lanes. HEAD_QUADS = HEAD_DIM / 4. SELECTION, CARRY, LSE.
// OUT_BINDING, CARRY_BINDING, LSE_BINDING, PARAMS_BINDING, STEP_BINDING: numbers of bindings.

@group(0) @binding(0) var<storage, read> partial: array<vec4f>;
@group(0) @binding(1) var<storage, read> rows: array<vec4u>;
#if SELECTION
@group(0) @binding(2) var<storage, read> selection: array<u32>;
#endif
@group(0) @binding(OUT_BINDING) var<storage, read_write> out: array<vec4f>;
#if CARRY
@group(0) @binding(CARRY_BINDING) var<storage, read_write> carry: array<vec4f>;
#endif
#if LSE
@group(0) @binding(LSE_BINDING) var<storage, read_write> lse: array<f32>;
#endif
@group(0) @binding(PARAMS_BINDING) var<uniform> params: AttentionParams;
@group(0) @binding(STEP_BINDING) var<uniform> step: StepParams;

#include "common/dispatch.wgsl"
#if SELECTION
#include "common/selection.wgsl"
#endif

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let index = workgroup_index(id, count);
  let row = index / params.num_heads;
  let head = index % params.num_heads;
  if (row >= step.num_rows) {
    return;
  }
  let info = rows[step.first_row + row];
  var num_keys = info.z + 1u;
#if SELECTION
  if (is_selected(info.y)) {
    num_keys = attended_of(info.y, head * params.num_kv_heads / params.num_heads, info.z).total;
  }
#endif
  let splits = (num_keys + params.split_keys - 1u) / params.split_keys;
#if CARRY
  if (splits == 0u && params.first_pass == 0u && params.last_pass == 0u) {
    return;
  }
#else
  if (splits == 0u || (splits == 1u && params.partial_only == 0u)) {
    return;
  }
#endif

  let stride = HEAD_QUADS + 1u;
  let base = index * params.max_splits * stride;
  var maximum = -1e30;
#if CARRY
  // Read by all lanes before one of them writes it.
  let fresh = params.first_pass != 0u;
  let old = select(carry[index * stride + HEAD_QUADS].xy, vec2f(-1e30, 0.0), fresh);
  workgroupBarrier();
  maximum = old.x;
#endif
  for (var s = 0u; s < splits; s++) {
    maximum = max(maximum, partial[base + s * stride + HEAD_QUADS].x);
  }
  var normaliser = 0.0;
#if CARRY
  let kept = exp(old.x - maximum);
  normaliser = kept * old.y;
#endif
  for (var s = 0u; s < splits; s++) {
    let state = partial[base + s * stride + HEAD_QUADS];
    normaliser += exp(state.x - maximum) * state.y;
  }
  for (var quad = lane; quad < HEAD_QUADS; quad += WG) {
    var sum = vec4f(0.0);
#if CARRY
    // What a fresh buffer holds may be no number.
    if (!fresh) {
      sum = kept * carry[index * stride + quad];
    }
#endif
    for (var s = 0u; s < splits; s++) {
      let at = base + s * stride;
      sum += exp(partial[at + HEAD_QUADS].x - maximum) * partial[at + quad];
    }
#if CARRY
    if (params.last_pass != 0u) {
      // A sum over any key at all is at least 1.
      out[index * HEAD_QUADS + quad] = sum / max(normaliser, 1e-30);
    } else {
      carry[index * stride + quad] = sum;
    }
#else
    out[index * HEAD_QUADS + quad] = sum / normaliser;
#endif
  }
  if (lane == 0u) {
#if CARRY
    if (params.last_pass == 0u) {
      carry[index * stride + HEAD_QUADS] = vec4f(maximum, normaliser, 0.0, 0.0);
      return;
    }
#endif
#if LSE
    lse[row * params.lse_stride + params.lse_offset + head] = maximum + log(normaliser);
#endif
  }
}
