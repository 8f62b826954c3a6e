// train_norm_slope: gradients of a norm's gain and bias, sums over the rows of a window.
//
// normed    (rows, hidden) f32: hidden states with mean 0 and variance 1       read
// slopes    (rows, hidden) f32: gradient of normed * gain + bias               read
// gradients the gradients of all trained values                                written: gain, bias
//
// WG: lanes, a column each.

@group(0) @binding(0) var<storage, read> normed: array<f32>;
@group(0) @binding(1) var<storage, read> slopes: array<f32>;
@group(0) @binding(2) var<storage, read_write> gradients: array<f32>;
@group(0) @binding(3) var<uniform> params: TrainParams;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let column = id.x;
  if (column >= params.hidden) {
    return;
  }
  var gain = 0.0;
  var bias = 0.0;
  for (var row = 0u; row < params.rows; row++) {
    let slope = slopes[row * params.hidden + column];
    gain += slope * normed[row * params.hidden + column];
    bias += slope;
  }
  gradients[params.gain_at + column] = gain;
  gradients[params.bias_at + column] = bias;
}
