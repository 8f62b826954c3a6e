// sample_pick: chooses the token of each row and reports its log-probability and the likeliest ids.
// Greedy takes the largest adjusted logit, the lowest id on ties. Drawing takes the first id, in
// order of ids, whose cumulative weight exp((l - largest) / temperature) is above
// random * total.
//
// rows        (rows)        SampleRow
// adjustments (entries)     vec4u, as in sample_adjust
// logits      (rows, vocab) f32, as bits; adjusted ones are put back to what they were
// stats       (2, max_rows, SPLITS) vec4u, from sample_scan
// list        (max_rows, list_capacity) ids that are left after a filter, ascending
// results     (max_rows, RESULT_WORDS) token, log-probability, number of alternatives,
//             1 if there are log-probabilities at all, then (id, log-probability) of each
// last_tokens (slots)       the token, at the row's slot
// Mapping: one workgroup a row. Defines: WG, SPLITS, TABLE (the larger of both), FILTERS (compile
// top-k, typical, top-p and min-p), UNROLL (entries in one turn of a loop), RESULT_WORDS,
// HEADER_WORDS.
#include "common/dispatch.wgsl"
#include "common/sample.wgsl"

@group(0) @binding(0) var<storage, read> rows: array<SampleRow>;
@group(0) @binding(1) var<storage, read> adjustments: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> logits: array<u32>;
@group(0) @binding(3) var<storage, read> stats: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> list: array<u32>;
@group(0) @binding(5) var<storage, read_write> results: array<u32>;
@group(0) @binding(6) var<storage, read_write> last_tokens: array<u32>;
@group(0) @binding(7) var<uniform> params: SampleParams;

var<workgroup> table: array<f32, TABLE>;
var<workgroup> step_of: vec4f;
var<workgroup> front_keys: array<u32, SPLITS>;
var<workgroup> front_ids: array<u32, SPLITS>;

var<private> base: u32;
var<private> list_base: u32;
// The ids that are looked at: the whole row, or the list once it is short enough.
var<private> listed: bool;
var<private> size: u32;

fn logit_at(id: u32) -> f32 {
  return clean(logits[base + id]);
}

fn id_at(index: u32) -> u32 {
#if FILTERS
  if (listed) {
    return list[list_base + index];
  }
#endif
  return index;
}

#if FILTERS
#include "common/sample_filter.wgsl"
#endif

// Finds where `random * total` falls in the first `count` entries of the table; a `target` below 0
// is worked out from the total. Uniform result: entry, what lies before it, target.
fn walk_table(lane: u32, count: u32, random: f32, goal: f32) -> vec4f {
  workgroupBarrier();
  if (lane == 0u) {
    var aim = goal;
    if (aim < 0.0) {
      var total = 0.0;
      for (var i = 0u; i < count; i++) {
        total += table[i];
      }
      aim = random * total;
    }
    var before = 0.0;
    var sum = 0.0;
    var found = 0u;
    var stop = false;
    for (var i = 0u; i < count; i++) {
      let part = table[i];
      if (!stop && part > 0.0) {
        found = i;
        before = sum;
        stop = sum + part > aim;
      }
      sum += part;
    }
    step_of = vec4f(f32(found), before, aim, 0.0);
  }
  return workgroupUniformLoad(&step_of);
}

// Inverse of the cumulative distribution, in order of ids.
fn draw(lane: u32, row: u32, largest: f32, section: u32) -> u32 {
  let random = rows[row].random;
  let inverse = rows[row].inverse_temperature;
  var low = 0u;
  var high = size;
  var goal = -1.0;
  if (rows[row].filters == 0u) {
    // The scan has summed each piece, relative to the largest of the piece.
    for (var i = lane; i < SPLITS; i += WG) {
      let stat = stats[section + i];
      let scale = weight_of((logit_of(stat.x) - largest) * inverse);
      table[i] = select(scale * bitcast<f32>(stat.w), 0.0, stat.x == 0u);
    }
    let found = walk_table(lane, SPLITS, random, goal);
    low = u32(found.x) * params.piece;
    high = min(low + params.piece, size);
    goal = max(found.z - found.y, 0.0);
  }
  while (high - low > 1u) {
    let part = (high - low + WG - 1u) / WG;
    let first = min(low + lane * part, high);
    let end = min(first + part, high);
    var sum = 0.0;
    for (var i = first; i < end; i++) {
      let id = id_at(i);
      let logit = logit_at(id);
      let weight = weight_of((logit - largest) * inverse);
#if FILTERS
      sum += select(0.0, weight, survives(id, logit));
#else
      sum += weight;
#endif
    }
    table[lane] = sum;
    let found = walk_table(lane, WG, random, goal);
    low = min(low + u32(found.x) * part, high - 1u);
    high = min(low + part, high);
    goal = max(found.z - found.y, 0.0);
  }
  return id_at(min(low, size - 1u));
}

// The largest logit of a row and its id, from the scan.
fn merge(lane: u32, section: u32) -> vec2u {
  var best = vec2u(0u, nowhere);
  for (var i = lane; i < SPLITS; i += WG) {
    let stat = stats[section + i];
    // Ids grow with i, so that the first of equal keys has the lowest id.
    best = select(best, stat.xy, stat.x > best.x);
  }
  return reduce_best(lane, best.x, best.y);
}

// Log-probability of the token and the likeliest ids under the raw logits.
fn report(lane: u32, row: u32, token: u32) {
  let section = row * SPLITS;
  let best = merge(lane, section);
  let largest = logit_of(best.x);
  var total = vec4f(0.0);
  for (var i = lane; i < SPLITS; i += WG) {
    let stat = stats[section + i];
    front_keys[i] = stat.x;
    front_ids[i] = stat.y;
    let part = weight_of(logit_of(stat.x) - largest) * bitcast<f32>(stat.z);
    total.x += select(part, 0.0, stat.x == 0u);
  }
  let log_total = log(reduce_sum(lane, total).x);
  let at = row * RESULT_WORDS;
  if (lane == 0u) {
    results[at + 1u] = bitcast<u32>(logit_at(token) - largest - log_total);
  }
  // A knock-out: the best of all pieces leaves, and its piece puts up the next one.
  for (var n = 0u; n < rows[row].top; n++) {
    workgroupBarrier();
    var mine = vec2u(0u, nowhere);
    for (var i = lane; i < SPLITS; i += WG) {
      let better = front_keys[i] > mine.x || (front_keys[i] == mine.x && front_ids[i] < mine.y);
      mine = select(mine, vec2u(front_keys[i], front_ids[i]), better);
    }
    let winner = reduce_best(lane, mine.x, mine.y);
    let piece = winner.y / params.piece;
    let end = min((piece + 1u) * params.piece, params.vocab);
    var next = vec2u(0u, nowhere);
    for (var i = piece * params.piece + lane; i < end; i += WG * UNROLL) {
#for j UNROLL
      let at_{j} = min(i + {j}u * WG, end - 1u);
      let key_{j} = key_of(logit_at(at_{j}));
      let below_{j} = key_{j} < winner.x || (key_{j} == winner.x && at_{j} > winner.y);
#endfor
#for j UNROLL
      next = select(next, vec2u(key_{j}, at_{j}), below_{j} && key_{j} > next.x);
#endfor
    }
    let heir = reduce_best(lane, next.x, next.y);
    if (lane == 0u) {
      front_keys[min(piece, SPLITS - 1u)] = heir.x;
      front_ids[min(piece, SPLITS - 1u)] = heir.y;
      results[at + HEADER_WORDS + n * 2u] = winner.y;
      results[at + HEADER_WORDS + n * 2u + 1u] =
        bitcast<u32>(logit_of(winner.x) - largest - log_total);
    }
  }
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) group_id: vec3u,
  @builtin(num_workgroups) group_count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = workgroup_index(group_id, group_count);
  if (row >= params.num_rows_max) {
    return;
  }
  base = row * params.vocab;
  list_base = row * params.list_capacity;
  listed = false;
  size = params.vocab;
  let adjust_count = rows[row].adjust_count;

  var token = rows[row].forced;
  if (token == nowhere) {
    let section = (select(0u, params.num_rows_max, adjust_count > 0u) + row) * SPLITS;
    let best = merge(lane, section);
    token = best.y;
    var largest = logit_of(best.x);
    // Where every token is banned there is nothing to draw from.
    if (rows[row].inverse_temperature > 0.0 && largest > banned) {
#if FILTERS
      largest = filter_row(lane, row, largest);
#endif
      token = draw(lane, row, largest, section);
    }
  }
  token = min(token, params.vocab - 1u);

  // Everyone has read the adjusted logits once this barrier is passed.
  storageBarrier();
  for (var i = lane; i < adjust_count; i += WG) {
    let entry = adjustments[rows[row].adjust_first + i];
    logits[base + min(entry.x, params.vocab - 1u)] = entry.w;
  }
  storageBarrier();

  if (rows[row].report != 0u) {
    report(lane, row, token);
  }
  if (lane == 0u) {
    results[row * RESULT_WORDS] = token;
    results[row * RESULT_WORDS + 2u] = rows[row].top;
    results[row * RESULT_WORDS + 3u] = rows[row].report;
    let slot = rows[row].slot;
    if (slot < arrayLength(&last_tokens)) {
      last_tokens[slot] = token;
    }
  }
}
