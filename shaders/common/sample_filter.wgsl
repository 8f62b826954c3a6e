// The filters of sample_pick. Each keeps the ids with the best scores up to a count (top-k) or a
// mass (typical, top-p) and needs no sort: a search over the integer score finds the threshold,
// nine-fold narrower with each pass over the row. Of equal scores the lower ids are kept, by a
// second search over ids. As soon as few enough ids can still be kept they are put into a list,
// in order, and what follows looks at the list only. The loops over a row are unrolled for the sake
// of speed, of small rounding errors, and of adapters that end every loop after so many turns (see
// sample_variant.ts).
const no_limit: u32 = 0xffffffffu;
// Score of distance 0; above the bits of every positive float.
const nearest: u32 = 0x80000000u;
const by_logit: u32 = 0u;
const by_distance: u32 = 1u;
const by_id: u32 = 2u;

// An id is left if its logit's key is above `key_min` (or equal, with an id up to `key_id`), and
// its distance from `center` below `distance_max` (or equal, with an id up to `distance_id`).
var<private> key_min: u32;
var<private> key_id: u32;
var<private> center: f32;
var<private> distance_max: u32;
var<private> distance_id: u32;

fn distance_of(logit: f32) -> u32 {
  return bitcast<u32>(abs(center - logit));
}

fn survives(id: u32, logit: f32) -> bool {
  let key = key_of(logit);
  let distance = distance_of(logit);
  return (key > key_min || (key == key_min && id <= key_id)) &&
    (distance < distance_max || (distance == distance_max && id <= distance_id));
}

// Larger is kept first; 0 takes no part. `tied` is the score that ids are compared under.
fn score_of(id: u32, logit: f32, kind: u32, ties: bool, tied: u32) -> u32 {
  let score = select(key_of(logit), nearest - distance_of(logit), kind == by_distance);
  let among = select(0u, params.vocab - id, score == tied);
  return select(0u, select(score, among, ties), survives(id, logit));
}

// Narrows what is left to scores at or above a threshold.
fn keep_above(kind: u32, score: u32) {
  if (kind == by_distance) {
    distance_max = nearest - score;
  } else if (score > key_min) {
    key_min = score;
    key_id = no_limit;
  }
}

// Puts the ids that are left into the list, if they fit.
fn compact(lane: u32) {
  let part = (size + WG - 1u) / WG;
  let first = min(lane * part, size);
  let end = min(first + part, size);
  var count = 0u;
  for (var i = first; i < end; i += UNROLL) {
#for j UNROLL
    let at_{j} = i + {j}u;
    let left_{j} = at_{j} < end && survives(at_{j}, logit_at(min(at_{j}, end - 1u)));
#endfor
#for j UNROLL
    count += select(0u, 1u, left_{j});
#endfor
  }
  table[lane] = f32(count);
  workgroupBarrier();
  var before = 0.0;
  for (var i = 0u; i < WG; i++) {
    before += select(0.0, table[i], i < lane);
  }
  let total = reduce_sum(lane, vec4f(f32(count), 0.0, 0.0, 0.0)).x;
  if (total <= f32(params.list_capacity)) {
    var next = list_base + u32(before);
    for (var i = first; i < end; i++) {
      if (survives(i, logit_at(i))) {
        list[next] = i;
        next++;
      }
    }
    listed = true;
    size = u32(total);
  }
  storageBarrier();
}

var<private> above_0: vec4f;
var<private> above_1: vec4f;

// Sums the weights (1 each when counting) of the scores at or above each of eight pivots.
fn sum_above(
  lane: u32, kind: u32, ties: bool, tied: u32, counting: bool, largest: f32, p0: vec4u, p1: vec4u,
) {
  var s0 = vec4f(0.0);
  var s1 = vec4f(0.0);
  for (var i = lane; i < size; i += WG * UNROLL) {
    var part0 = vec4f(0.0);
    var part1 = vec4f(0.0);
#for j UNROLL
    let at_{j} = i + {j}u * WG;
    let id_{j} = id_at(min(at_{j}, size - 1u));
    let logit_{j} = logit_at(id_{j});
#endfor
#for j UNROLL
    let score_{j} = select(0u, score_of(id_{j}, logit_{j}, kind, ties, tied), at_{j} < size);
    let weight_{j} = select(weight_of(logit_{j} - largest), 1.0, counting);
    part0 += select(vec4f(0.0), vec4f(weight_{j}), vec4u(score_{j}) >= p0);
    part1 += select(vec4f(0.0), vec4f(weight_{j}), vec4u(score_{j}) >= p1);
#endfor
    s0 += part0;
    s1 += part1;
  }
  above_0 = reduce_sum(lane, s0);
  above_1 = reduce_sum(lane, s1);
}

// The first pivots: the neighbourhoods where thresholds of real distributions lie.
const depths_0 = vec4f(18.0, 13.0, 10.0, 7.5);
const depths_1 = vec4f(5.5, 4.0, 2.5, 1.0);

// The likeliest token may have gone by the typical rule.
fn largest_left(lane: u32) -> f32 {
  var best = vec2u(0u, nowhere);
  for (var i = lane; i < size; i += WG * UNROLL) {
#for j UNROLL
    // Past the end the last entry is read again, which changes no maximum.
    let id_{j} = id_at(min(i + {j}u * WG, size - 1u));
    let logit_{j} = logit_at(id_{j});
    let key_{j} = select(0u, key_of(logit_{j}), survives(id_{j}, logit_{j}));
    best = select(best, vec2u(key_{j}, id_{j}), key_{j} > best.x);
#endfor
  }
  return logit_of(reduce_best(lane, best.x, best.y).x);
}

// Mass that is left, and mass times depth below `largest`.
fn moments_left(lane: u32, largest: f32) -> vec4f {
  var total = vec4f(0.0);
  for (var i = lane; i < size; i += WG * UNROLL) {
    var part = vec2f(0.0);
#for j UNROLL
    let at_{j} = i + {j}u * WG;
    let id_{j} = id_at(min(at_{j}, size - 1u));
    let logit_{j} = logit_at(id_{j});
    let left_{j} = at_{j} < size && survives(id_{j}, logit_{j});
    let weight_{j} = select(0.0, weight_of(logit_{j} - largest), left_{j});
    part += vec2f(weight_{j}, weight_{j} * (largest - logit_{j}));
#endfor
    total += vec4f(part, 0.0, 0.0);
  }
  return reduce_sum(lane, total);
}

fn filter_row(lane: u32, row: u32, top_logit: f32) -> f32 {
  let spec = rows[row];
  var largest = top_logit;
  key_min = 0u;
  key_id = no_limit;
  center = 0.0;
  distance_max = no_limit;
  distance_id = no_limit;

  // Stages: top-k, typical, top-p, each followed by its ties.
  var tied = 0u;
  var rest = 0.0;
  for (var stage = 0u; stage < 6u; stage++) {
    let rule = stage / 2u;
    let ties = (stage & 1u) == 1u;
    if (stage == 4u && (spec.filters & 2u) != 0u) {
      largest = largest_left(lane);
    }
    if ((spec.filters & (1u << rule)) == 0u || (ties && tied == 0u)) {
      continue;
    }
    let counting = rule == 0u;
    let kind = select(by_logit, by_distance, rule == 1u);
    var goal = rest;
    if (!ties) {
      goal = f32(spec.top_k);
      if (!counting) {
        // Surprise - entropy = depth below the largest - mean depth.
        let moments = moments_left(lane, largest);
        if (rule == 1u) {
          center = largest - moments.y / moments.x;
        }
        goal = moments.x * select(spec.top_p, spec.typical_p, rule == 1u);
      }
      goal = max(goal, 1e-30);
    }

    // Scores at or above `low` reach the goal, those at or above `high` do not.
    var low = 1u;
    var high = select(key_of(largest), nearest, kind == by_distance) + 1u;
    if (ties) {
      high = params.vocab + 1u;
    }
    var over = 0.0;
    for (var round = 0u; round < 16u; round++) {
      if (high - low <= 1u) {
        break;
      }
      let width = max(1u, (high - low) / 9u);
      var p0 = min(vec4u(low) + vec4u(1u, 2u, 3u, 4u) * width, vec4u(high));
      var p1 = min(vec4u(low) + vec4u(5u, 6u, 7u, 8u) * width, vec4u(high));
      let coarse = round == 0u && !ties;
      if (coarse && kind == by_logit) {
        let d0 = largest - depths_0;
        let d1 = largest - depths_1;
        p0 = vec4u(key_of(d0.x), key_of(d0.y), key_of(d0.z), key_of(d0.w));
        p1 = vec4u(key_of(d1.x), key_of(d1.y), key_of(d1.z), key_of(d1.w));
      }
      if (coarse && kind == by_distance) {
        p0 = vec4u(nearest) - bitcast<vec4u>(depths_0);
        p1 = vec4u(nearest) - bitcast<vec4u>(depths_1);
      }
      sum_above(lane, kind, ties, tied, counting, largest, p0, p1);
      // Sums fall as pivots rise, so those that reach the goal come first.
#for j 4
      if (above_0[{j}] >= goal) {
        low = p0[{j}];
      } else if (p0[{j}] < high) {
        high = p0[{j}];
        over = above_0[{j}];
      }
#endfor
#for j 4
      if (above_1[{j}] >= goal) {
        low = p1[{j}];
      } else if (p1[{j}] < high) {
        high = p1[{j}];
        over = above_1[{j}];
      }
#endfor
      if (!listed && !ties && (round == 0u || round == 2u || high - low <= 1u)) {
        keep_above(kind, low);
        compact(lane);
      }
    }

    if (ties) {
      if (kind == by_distance) {
        distance_id = params.vocab - low;
      } else {
        key_id = params.vocab - low;
      }
      continue;
    }
    keep_above(kind, low);
    sum_above(lane, kind, true, low, true, largest, vec4u(1u), vec4u(1u));
    tied = select(0u, low, above_0.x > 1.5);
    rest = max(goal - over, 1e-30);
  }

  if ((spec.filters & 8u) != 0u) {
    keep_above(by_logit, key_of(largest - spec.min_p_depth));
  }
  return largest;
}
