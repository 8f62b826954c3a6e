/** What each policy's recipe makes of its rows: the totals, the bounds, and when that is all rows. */
import { assert, fc } from "std-testing";
import { totalsOf, windowRecipe } from "../../src/butler/policies/common.ts";
import { POLICIES } from "../../src/butler/policies/mod.ts";
import { observedRows } from "../../src/butler/policies/observed.ts";
import type { StepRecipe } from "../../src/butler/policies/types.ts";
import type { KvSettings, PolicyName } from "../../src/butler/settings.ts";
import { headBudgets, POLICY_NAMES } from "../../src/butler/settings.ts";
import { anyBudget, anyWeights, settingsOf } from "./_settings.ts";

const SIZES = { sinks: 64, window: 192, budget: { rows: 768 } } as const;

function recipe(policy: PolicyName, n: number, more: Partial<KvSettings> = {}, weights = [1, 1]) {
  const settings = settingsOf(["selected"], { ...SIZES, policy, ...more }, weights);
  return POLICIES[policy].recipe(settings, headBudgets(settings, n)[0]!, n);
}

/** Rows of each KV head. */
function rowsOf({ prefix, budgets, unit, windowStart }: StepRecipe, n: number): number[] {
  return budgets.map((units) => prefix + units * unit + n - windowStart);
}

Deno.test("each policy spends the same total by its own recipe", () => {
  const n = 5000;
  const ranked = {
    prefix: 64,
    windowStart: n - 192,
    from: 64,
    to: n - 192,
    unit: 1,
    budgets: [768, 768],
  };
  for (const policy of ["oracle", "loki", "tokenbutler"] as const) {
    assert.deepEqual(recipe(policy, n), ranked);
  }
  // 1024 / 16 pages; that of the newest row is one of them.
  assert.deepEqual(recipe("quest", n), {
    prefix: 0,
    windowStart: 4992,
    from: 0,
    to: 312,
    unit: 16,
    budgets: [63, 63],
  });
  // Half heavy, half recent.
  assert.deepEqual(recipe("h2o", n), {
    prefix: 0,
    windowStart: n - 512,
    from: 0,
    to: n - 512,
    unit: 1,
    budgets: [512, 512],
  });
  // No sinks: they are chosen if they count.
  assert.deepEqual(recipe("snapkv", n), {
    prefix: 0,
    windowStart: n - 192,
    from: 0,
    to: n - 192,
    unit: 1,
    budgets: [832, 832],
  });
  assert.deepEqual(recipe("streaming", n), {
    prefix: 64,
    windowStart: n - 192,
    from: 64,
    to: 64,
    unit: 1,
    budgets: [0, 0],
  });
  assert.equal(recipe("dense", n), "all");
});

Deno.test("a KV head's own budget is its own alone", () => {
  const weights = [0.5, 1.5];
  const of = (policy: PolicyName) => recipe(policy, 5000, {}, weights) as StepRecipe;
  assert.deepEqual(of("loki").budgets, [384, 1152]);
  assert.deepEqual(of("quest").budgets, [39, 87]);
  assert.deepEqual(of("h2o").budgets, [128, 896]);
  assert.deepEqual(of("snapkv").budgets, [448, 1216]);
});

Deno.test("a share counts all rows, sinks and window among them", () => {
  const budget = { share: 0.25 };
  assert.deepEqual((recipe("loki", 4000, { budget }) as StepRecipe).budgets, [744, 744]);
  assert.deepEqual((recipe("loki", 800, { budget }) as StepRecipe).budgets, [0, 0]);
  assert.equal(recipe("loki", 5000, { budget: { share: 1 } }), "all");
});

Deno.test("totals are never more than S + W + B, and `all` is said exactly when they reach", () => {
  const sizes = fc.record({
    sinks: fc.integer({ min: 0, max: 100 }),
    window: fc.integer({ min: 1, max: 200 }),
    budget: anyBudget,
  });
  const policy = fc.constantFrom(...POLICY_NAMES);
  let selected = 0;
  fc.assert(
    fc.property(policy, sizes, anyWeights, fc.integer({ min: 1, max: 2000 }), (name, s, w, n) => {
      const settings = settingsOf(["selected"], { ...s, policy: name }, w);
      const rows = headBudgets(settings, n)[0]!;
      const made = POLICIES[name].recipe(settings, rows, n);
      const totals = name === "streaming"
        ? w.map(() => s.sinks + s.window)
        : totalsOf(settings, rows);
      const covers = totals.every((total) => total >= n);
      if (name === "dense") return assert.equal(made, "all");
      if (covers) assert.equal(made, "all", `${name} leaves rows out of ${n}`);
      if (made === "all") {
        // Rules of their own: quest has three pages at least; h2o's recent rows are of the mean.
        const recent = Math.ceil(totals.reduce((sum, t) => sum + t, 0) / totals.length / 2);
        const least = name === "quest" ? 48 : name === "h2o" ? recent : 0;
        assert.ok(totals.every((total) => Math.max(total, least) >= n), `${name} takes all ${n}`);
        return;
      }
      selected++;
      const { prefix, windowStart, from, to, unit, budgets } = made;
      assert.equal(budgets.length, w.length);
      assert.ok(prefix <= from * unit && from <= to && to * unit <= windowStart);
      assert.ok(windowStart < n, "the newest row is left out");
      for (const units of budgets) {
        assert.ok(Number.isInteger(units) && units >= 0 && units <= to - from);
      }
      rowsOf(made, n).forEach((rows, head) => {
        const most = name === "quest"
          ? Math.max(48, totals[head]!)
          : name === "h2o"
          ? Math.max(totals[head]!, n - windowStart)
          : totals[head]!;
        assert.ok(rows <= most, `${name}: ${rows} rows of ${most}`);
        assert.ok(rows <= n);
        // Nothing is left unspent but what does not make a page.
        const spent = name === "quest" ? totals[head]! - 31 : totals[head]!;
        assert.ok(rows >= Math.min(n, spent), `${name}: only ${rows} rows of ${spent}`);
      });
    }),
    { numRuns: 5000 },
  );
  assert.ok(selected > 1000);
});

Deno.test("windowRecipe() is all rows while sinks and window reach", () => {
  assert.equal(windowRecipe(4, 8, 2, 12), "all");
  assert.deepEqual(windowRecipe(4, 8, 2, 13), {
    prefix: 4,
    windowStart: 5,
    from: 4,
    to: 4,
    unit: 1,
    budgets: [0, 0],
  });
  assert.equal(windowRecipe(4, 8, 2, 3), "all");
});

Deno.test("attention of prompts is kept as each paper says", () => {
  assert.equal(observedRows(POLICIES.snapkv, 192, 500), 32);
  assert.equal(observedRows(POLICIES.snapkv, 192, 20), 20);
  // They lie inside the window.
  assert.equal(observedRows(POLICIES.snapkv, 9, 500), 9);
  assert.equal(observedRows(POLICIES.h2o, 192, 500), 500);
  for (const name of ["dense", "oracle", "quest", "loki", "streaming"] as const) {
    assert.equal(observedRows(POLICIES[name], 192, 500), null);
  }
});
