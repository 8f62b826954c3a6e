import { assert, fc } from "std-testing";
import { BLOCK_ROWS } from "../../src/kv/slab_pool.ts";
import {
  type LayerSet,
  pagesOf,
  planWorkingSet,
  smallestSet,
  wishedSet,
  type WorkingSetNeed,
} from "../../src/kv/working_set.ts";
import { headBudgets } from "../../src/butler/settings.ts";
import { anyBudget, anyRole, anyWeights, settingsOf } from "../butler/_settings.ts";

function pages(sets: readonly LayerSet[] | null): number[] | null {
  return sets && sets.map(pagesOf);
}

Deno.test("the smallest set is sinks, window and two blocks a layer, whatever the budget", () => {
  for (const rows of [0, 10, 768, 100_000]) {
    const settings = settingsOf(["dense", "selected", "window"], { budget: { rows } });
    // 64 / 32 + 192 / 32 + 2; the window's first block may be cut by its start.
    const set = { prefixBlocks: 2, windowBlocks: 7, slotPages: 1 };
    assert.deepEqual(smallestSet({ settings, maxRows: 100_000 }), [set, set, set]);
  }
});

Deno.test("rows that come between two selections make a set larger where there is room, and first", () => {
  const need = (more: Parameters<typeof settingsOf>[1]): WorkingSetNeed => ({
    settings: settingsOf(["dense", "selected"], more),
    maxRows: 10_000,
  });
  const windows = (sets: readonly LayerSet[]) => sets.map(({ windowBlocks }) => windowBlocks);
  const cases = [[{}, 7], [{ interval: 2 }, 8], [{ interval: 33 }, 8], [{ interval: 34 }, 9], [{
    fetch: "ahead",
  }, 8]] as const;
  for (const [more, wished] of cases) {
    assert.deepEqual(windows(smallestSet(need(more))), [7, 7]);
    assert.equal(windows(wishedSet(need(more)))[1], wished);
    // Two layers of ten blocks, and those that the window would like to have.
    const plan = (free: number) => planWorkingSet(need(more), [0, 0], [free]);
    assert.equal(plan(19), null);
    assert.deepEqual(windows(plan(20)!), [7, 7]);
    assert.deepEqual(plan(20 + wished - 7), [
      { prefixBlocks: 2, windowBlocks: 7, slotPages: 1 },
      { prefixBlocks: 2, windowBlocks: wished, slotPages: 1 },
    ]);
  }
});

Deno.test("the smallest set has no more pages than there are blocks", () => {
  const settings = settingsOf(["selected"]);
  assert.deepEqual(smallestSet({ settings, maxRows: 100 }), [
    { prefixBlocks: 3, windowBlocks: 1, slotPages: 0 },
  ]);
  assert.deepEqual(smallestSet({ settings, maxRows: 9 * 32 }), [
    { prefixBlocks: 8, windowBlocks: 1, slotPages: 0 },
  ]);
  assert.equal(smallestSet({ settings, maxRows: 9 * 32 + 1 })[0]!.slotPages, 1);
});

Deno.test("what is left goes to dense layers first, then to slots for twice the budget", () => {
  const settings = settingsOf(["dense", "selected", "window", "selected"], {
    sinks: 32,
    window: 32,
    budget: { rows: 64 },
  });
  const need: WorkingSetNeed = { settings, maxRows: 20 * 32 };
  const layerSlab = [0, 0, 0, 0];
  const plan = (free: number) => planWorkingSet(need, layerSlab, [free]);
  // Sinks 1, window 2, one to fetch into.
  assert.equal(plan(15), null);
  assert.deepEqual(pages(plan(16)), [4, 4, 4, 4]);
  // 16 more: the dense layer has all of its 20 blocks before another one gets anything.
  assert.deepEqual(pages(plan(20)), [8, 4, 4, 4]);
  assert.deepEqual(pages(plan(32)), [20, 4, 4, 4]);
  // Slots for 128 rows are 4 pages; the window of 32 + 64 rows takes 4 blocks and no slots.
  assert.deepEqual(plan(400), [
    { prefixBlocks: 19, windowBlocks: 1, slotPages: 0 },
    { prefixBlocks: 1, windowBlocks: 2, slotPages: 4 },
    { prefixBlocks: 1, windowBlocks: 4, slotPages: 0 },
    { prefixBlocks: 1, windowBlocks: 2, slotPages: 4 },
  ]);
  assert.deepEqual(plan(400), wishedSet(need));
});

Deno.test("slots are wished for twice the rows of a list with its neighbours", () => {
  const slots = (more: Parameters<typeof settingsOf>[1]) =>
    wishedSet({
      settings: settingsOf(["selected"], { sinks: 32, window: 32, budget: { rows: 64 }, ...more }),
      maxRows: 20 * 32,
    })[0]!.slotPages;
  assert.equal(slots({ policy: "loki", interval: 8, neighbours: false }), 4);
  assert.equal(slots({ policy: "loki", interval: 8, neighbours: true }), 8);
  // Pages bring their neighbours.
  assert.equal(slots({ policy: "quest", interval: 8, neighbours: true }), 4);
});

Deno.test("whole lists have slots before any layer has more, those of the most heads first", () => {
  const even = settingsOf([], { sinks: 32, window: 32, budget: { rows: 320 / 3 } });
  // Budgets of 32 and 96 rows, of 160 and 224, and of 64 and 64.
  const weights = [[0.3, 0.9], [1.5, 2.1], [0.6, 0.6]];
  const layers = weights.map((weights) => ({ role: "selected" as const, weights }));
  const settings = { ...even, layers };
  const need: WorkingSetNeed = { settings, maxRows: 10_000 };
  const slots = (free: number) =>
    planWorkingSet(need, [0, 0, 0], [free])!.map(({ slotPages }) => slotPages);
  const rows = headBudgets(settings, need.maxRows);
  const pages = rows.map((heads) => heads.map((row) => Math.ceil(row / BLOCK_ROWS)));
  const shortest = pages.map((heads) => Math.min(...heads));
  const longest = pages.map((heads) => Math.max(...heads));
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  assert.ok(sum(shortest) < sum(longest));
  assert.deepEqual(slots(9 + sum(shortest)), shortest);
  assert.deepEqual(slots(9 + sum(longest)), longest);
});

Deno.test("layers of one slab share what it has and take nothing of another one", () => {
  const settings = settingsOf(["selected", "selected", "selected"], {
    sinks: 32,
    window: 32,
    budget: { rows: 320 },
  });
  const plan = (free: readonly number[]) =>
    planWorkingSet({ settings, maxRows: 10_000 }, [0, 0, 1], free);
  assert.deepEqual(pages(plan([8, 100])), [4, 4, 23]);
  assert.deepEqual(pages(plan([13, 4])), [6, 7, 4]);
  assert.equal(plan([100, 3]), null);
});

Deno.test("a working set never needs more than is free, nor less or more than makes sense", () => {
  const need = fc.record({
    roles: fc.array(anyRole, { minLength: 1, maxLength: 5 }),
    weights: anyWeights,
    sinks: fc.integer({ min: 0, max: 100 }),
    window: fc.integer({ min: 1, max: 200 }),
    budget: anyBudget,
    interval: fc.integer({ min: 1, max: 40 }),
    maxRows: fc.integer({ min: 1, max: 3000 }),
    numSlabs: fc.integer({ min: 1, max: 3 }),
    free: fc.array(fc.integer({ min: 0, max: 200 }), { minLength: 3, maxLength: 3 }),
  });
  fc.assert(
    fc.property(need, ({ roles, weights, maxRows, numSlabs, free, ...more }) => {
      const settings = settingsOf(roles, more, weights);
      const layerSlab = roles.map((_, layer) => Math.floor(layer * numSlabs / roles.length));
      const all = Math.ceil(maxRows / BLOCK_ROWS);
      const least = smallestSet({ settings, maxRows });
      const wish = wishedSet({ settings, maxRows });
      const inSlab = (sets: readonly LayerSet[], slab: number) =>
        sets.reduce((sum, set, layer) => sum + (layerSlab[layer] === slab ? pagesOf(set) : 0), 0);
      const plan = planWorkingSet({ settings, maxRows }, layerSlab, free);
      const slabs = free.map((_, slab) => slab);
      assert.equal(plan !== null, slabs.every((slab) => inSlab(least, slab) <= free[slab]!));
      if (plan === null) return;
      for (const slab of slabs) {
        assert.ok(inSlab(plan, slab) <= free[slab]!, `slab ${slab} has not got so much`);
      }
      plan.forEach((set, layer) => {
        const { prefixBlocks, windowBlocks, slotPages } = set;
        for (const value of [prefixBlocks, windowBlocks, slotPages]) {
          assert.ok(Number.isInteger(value) && value >= 0);
        }
        assert.ok(pagesOf(set) >= pagesOf(least[layer]!));
        assert.ok(pagesOf(set) <= Math.max(pagesOf(wish[layer]!), pagesOf(least[layer]!)));
        // The newest row always has a page; what has no page can be fetched or streamed.
        assert.ok(windowBlocks >= 1);
        const whole = prefixBlocks + windowBlocks >= all;
        if (whole) assert.equal(slotPages, 0);
        assert.ok(prefixBlocks + windowBlocks <= all);
      });
    }),
    { numRuns: 2000 },
  );
});
