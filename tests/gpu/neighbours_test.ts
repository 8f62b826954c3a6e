/** Rows that follow runs of chosen rows, compared with the plain rule. */
import { neighboursSpec, WANTS_NEIGHBOURS } from "../../src/gpu/ops/neighbours.ts";
import { PICKS_ONLY, recipeStride, selectionHeader } from "../../src/gpu/ops/list_params.ts";
import { neighboursReference } from "../reference/neighbours.ts";
import { BLANK, blankWords, listSetup, recipe } from "./_lists.ts";
import { Random, Rig } from "./_rig.ts";
import { assert } from "std-testing";

/** Ascending positions in runs of random lengths. */
function runs(random: Random, count: number, first: number, end: number): number[] {
  const picked: number[] = [];
  for (let at = first; picked.length < count && at < end;) {
    for (let run = random.int(1, 6); run > 0 && picked.length < count && at < end; run--) {
      picked.push(at++);
    }
    at += random.int(1, 9);
  }
  return picked;
}

async function check(rig: Rig, lanes: number, seed: number, budget: number, position: number) {
  const random = new Random(seed);
  const kvHeads = 3;
  const listCapacity = 2 * budget + 5;
  // Slot 0 wants none; slot 1 does; slot 2 is of another policy; slot 3 wants them for later.
  const rows = [0, 1, 2, 3].map((slot) => ({ slot, position: position + slot }));
  const setup = listSetup(rig, {
    kvHeads,
    group: 1,
    rows,
    recipes: {
      0: recipe("exact", kvHeads, 4, 16, budget),
      1: recipe("projected", kvHeads, 4, 16, budget),
      2: recipe("pages", kvHeads, 0, 16, budget),
      3: recipe("projected", kvHeads, 4, 16, budget),
    },
    seed,
    listCapacity,
  }, random);
  const stride = recipeStride(kvHeads);
  const { device } = rig.kernels;
  for (const slot of [1, 2, 3]) {
    const flags = Uint32Array.of(WANTS_NEIGHBOURS | (slot === 3 ? PICKS_ONLY : 0));
    device.queue.writeBuffer(setup.buffers.recipes, (slot * stride + 3) * 4, flags);
  }
  const words = blankWords(setup.slots * kvHeads * listCapacity);
  const counts = new Uint32Array(setup.slots * kvHeads);
  const end = position + 2 - 16;
  const given = Array.from({ length: kvHeads }, () => runs(random, budget, 4, end));
  for (let slot = 0; slot < 4; slot++) {
    given.forEach((list, head) => {
      words.set(list, (slot * kvHeads + head) * listCapacity);
      counts[slot * kvHeads + head] = list.length;
    });
  }
  const picked = rig.storage(words);
  const pickedCount = rig.storage(counts);
  const { selection_stride, score_stride } = setup.params;
  const selection = rig.storage(blankWords(setup.slots * selection_stride));
  await rig.run([{
    spec: neighboursSpec(lanes),
    parts: [
      setup.buffers.rows,
      setup.buffers.recipes,
      setup.buffers.pages,
      rig.storage(blankWords(2 * rows.length * kvHeads * score_stride)),
      picked,
      pickedCount,
      selection,
      setup.buffers.params,
    ],
    step: setup.step,
    workgroups: rows.length * kvHeads,
  }]);
  const gotWords = await rig.words(picked, words.length);
  const gotCounts = await rig.words(pickedCount, counts.length);
  const gotSelection = await rig.words(selection, setup.slots * selection_stride);
  for (let slot = 0; slot < 4; slot++) {
    for (let head = 0; head < kvHeads; head++) {
      const at = slot * kvHeads + head;
      const list = [...gotWords.subarray(at * listCapacity, at * listCapacity + gotCounts[at]!)];
      const where = `seed ${seed}, slot ${slot}, head ${head}`;
      const header = slot * selection_stride;
      const rowsAt = header + selectionHeader(kvHeads) + head * listCapacity;
      if (slot === 0 || slot === 2) {
        assert.deepEqual(list, given[head], where);
        assert.equal(gotSelection[header + 4 + head], BLANK, where);
        continue;
      }
      const last = slot === 1 ? end : end + 2;
      assert.deepEqual(list, neighboursReference(given[head]!, last, 2 * budget), where);
      if (slot === 3) {
        const whole = gotSelection.subarray(header, header + selection_stride);
        assert.ok(whole.every((word) => word === BLANK), where);
        continue;
      }
      assert.equal(gotSelection[header + 4 + head], list.length, where);
      list.forEach((row, i) => {
        const wanted = setup.pageOf(slot, row) * 32 + row % 32;
        assert.equal(gotSelection[rowsAt + i], wanted, where);
      });
    }
  }
}

for (const lanes of [8, 64]) {
  Deno.test(`runs of chosen rows bring as many after them: ${lanes} lanes`, async () => {
    using rig = await Rig.create();
    let seed = 1;
    for (
      const [budget, position] of [[1, 40], [8, 90], [24, 100], [40, 300], [64, 140], [
        1500,
        6000,
      ]] as const
    ) {
      for (let turn = 0; turn < 4; turn++) await check(rig, lanes, seed++, budget, position);
    }
  });
}
