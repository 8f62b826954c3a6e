// Sum over the lanes of a workgroup; every lane gets it. To be called once, by all lanes.
// WG: lanes. SUBGROUPS: the workgroup is one subgroup.

var<workgroup> reduce_partial: array<f32, WG>;

fn reduce_sum(value: f32, lane: u32) -> f32 {
#if SUBGROUPS
  return subgroupAdd(value);
#else
  reduce_partial[lane] = value;
  workgroupBarrier();
  var sum = 0.0;
#for other WG
  sum += reduce_partial[{other}u];
#endfor
  return sum;
#endif
}
