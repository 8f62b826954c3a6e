import { assert, fc } from "std-testing";
import type { BudgetTable } from "../../src/butler/budget_table.ts";
import { type KvRequest, POLICY_NAMES, resolveKv } from "../../src/butler/settings.ts";
import { type LowerTiers, type TierPlan, tierPlan } from "../../src/cli/tier_plan.ts";
import type { DeviceTierOptions } from "../../src/kv/device_tier.ts";
import type { ModelConfig } from "../../src/model/types.ts";

/** The sizes of SmolLM2-135M. */
const CONFIG: ModelConfig = {
  architecture: "llama",
  name: "small",
  vocabSize: 49152,
  hiddenSize: 576,
  intermediateSize: 1536,
  numLayers: 30,
  numHeads: 9,
  numKvHeads: 3,
  headDim: 64,
  contextLength: 8192,
  rmsNormEps: 1e-5,
  rope: { dimensions: 64, pairing: "half", inverseFrequencies: [], attentionFactor: 1 },
  qkvBias: false,
  qkNorm: false,
  tiedEmbeddings: true,
};
const MIB = 2 ** 20;
/** Keys and values of 32 rows of a layer in f16. */
const PAGE = 32 * 2 * 3 * 64 * 2;
const BLOCK = 30 * PAGE;
/** A predictor's table that gives every head the same. */
const EVEN: BudgetTable = {
  roles: Array.from({ length: 30 }, (_, i) => i === 0 ? "dense" : "selected"),
  points: [{
    mean: 60,
    rows: Array.from({ length: 30 }, (_, i) => new Array(3).fill(i === 0 ? 0 : 60)),
  }],
};
const PLENTY: LowerTiers = { hostBytes: 4096 * MIB, diskBytes: 0 };

function plan(
  options: Partial<DeviceTierOptions>,
  lower: Partial<LowerTiers> = {},
  kv: KvRequest = {},
  budgetTable: BudgetTable | null = null,
): TierPlan {
  const known = { canProject: true, canPredict: budgetTable !== null, budgetTable };
  return tierPlan(
    CONFIG,
    { kvType: "f16", contextLength: 8192, numSlots: 1, ...options },
    { ...PLENTY, ...lower },
    (fits) => resolveKv(kv, CONFIG, { fits, ...known }).settings,
    128 * MIB,
  );
}

Deno.test("tierPlan() leaves a sequence on the device that has room there", () => {
  const { whole, device, beside, host, disk, wholeRows, longestRows } = plan({});
  assert.ok(whole);
  assert.equal(device.all, 256 * BLOCK);
  assert.equal(device.capacity, 256 * BLOCK);
  assert.equal(device.dense + device.sinks + device.window + device.slots, 0);
  assert.deepEqual([host.used, disk.used, disk.capacity], [0, 0, 0]);
  // A page table of each layer.
  assert.deepEqual(beside, { importance: 0, maps: 30 * 256 * 4, scores: 0, staging: 0 });
  assert.equal(wholeRows, 8192);
  assert.ok(longestRows > 8192);
});

Deno.test("tierPlan() counts what of a longer sequence lies where", () => {
  const made = plan({ deviceBytes: 10 * MIB }, { hostBytes: 20 * MIB, diskBytes: 1024 * MIB });
  assert.equal(made.refusal, null);
  assert.ok(!made.whole);
  // 426 pages: 10 for each layer, and what is left for the dense one.
  assert.equal(made.device.capacity, 426 * PAGE);
  assert.equal(made.device.sinks, 29 * 2 * PAGE);
  assert.equal(made.device.window, 29 * 7 * PAGE);
  assert.equal(made.device.slots, 30 * PAGE);
  assert.equal(made.device.dense, (426 - 29 * 9 - 30) * PAGE);
  // 256 whole blocks; 28 have room on the host, a file is a record and a header longer.
  assert.equal(made.host.used, 28 * BLOCK);
  assert.equal(made.disk.used, 228 * (128 + 31 * (PAGE + 24)));
  assert.equal(made.beside.importance, 256 * 30 * 3 * 256 * 4);
  assert.equal(made.beside.staging, 4 * MIB - 4 * MIB % PAGE + 20 * MIB);
  assert.equal(made.wholeRows, 14 * 32);
});

Deno.test("tierPlan() has at most 14 % of the dense cache beside it for keys, tables and lists", () => {
  for (const policy of POLICY_NAMES) {
    for (const contextLength of [8192, 32_768, 131_072]) {
      const options = { contextLength, deviceBytes: 100 * MIB };
      const { refusal, beside } = plan(options, {}, { policy }, EVEN);
      assert.equal(refusal, null);
      const share = (beside.importance + beside.maps) / (contextLength / 32 * BLOCK);
      assert.ok(share <= 0.14, `${policy}, ${contextLength}: ${share}`);
      if (policy === "loki") assert.ok(share > 0.125, `16 of 128 values a row: ${share}`);
    }
  }
});

Deno.test("tierPlan() follows the predictor's table", () => {
  // Layer 0 is a window; of the others one head has 3 times the mean, the rest what is left.
  const roles = Array.from(
    { length: 30 },
    (_, i) => i === 0 ? "window" as const : "selected" as const,
  );
  const rows = roles.map((role) => role === "window" ? [0, 0, 0] : [180, 0, 0]);
  const table: BudgetTable = { roles, points: [{ mean: 60, rows }] };
  const sizes = { deviceBytes: 100 * MIB };
  const kv = { policy: "tokenbutler", sinks: 32, window: 32, budget: { rows: 64 } } as const;
  const shaped = plan(sizes, {}, kv, table);
  assert.equal(shaped.refusal, null);
  assert.equal(shaped.device.dense, 0);
  assert.equal(shaped.device.sinks, 30 * PAGE);
  // 32 rows and any beginning in a block; in layer 0 64 more.
  assert.equal(shaped.device.window, (29 * 2 + 4) * PAGE);
  // Twice 192 rows.
  assert.equal(shaped.device.slots, 29 * 12 * PAGE);
  const even = plan(sizes, {}, { ...kv, table: false }, table);
  assert.equal(even.device.slots, 29 * 4 * PAGE);
  assert.ok(even.device.dense > 0);
  const lists = (budget: number) => plan(sizes, {}, { ...kv, budget: { rows: budget } }, table);
  // A list as long as its largest head's, three times as long as the mean.
  assert.ok(lists(2000).beside.maps > lists(1000).beside.maps);
  assert.ok(
    lists(1000).beside.maps >
      2 * plan(sizes, {}, { ...kv, budget: { rows: 1000 }, table: false }, table).beside.maps,
  );
});

Deno.test("tierPlan() goes by what the device has room for, where that was tried", () => {
  const layerSlab = new Array<number>(30).fill(0);
  const tried = { layerSlab, slabPages: [30 * 40], numBlocks: 40, notes: [] };
  const { device, whole, wholeRows } = tierPlan(
    CONFIG,
    { kvType: "f16", contextLength: 8192, numSlots: 1 },
    PLENTY,
    (fits) => resolveKv({}, CONFIG, { fits, canProject: true, canPredict: false }).settings,
    128 * MIB,
    "f16",
    tried,
  );
  assert.ok(!whole);
  assert.equal(wholeRows, 40 * 32);
  assert.equal(device.capacity, 40 * BLOCK);
});

Deno.test("tierPlan() says why a sequence cannot run, and how long one may be", () => {
  const narrow = plan({ deviceBytes: MIB });
  assert.match(narrow.refusal!, /at least 7372800 bytes .* there are 1032192: .*--kv-device/);
  assert.equal(narrow.longestRows, narrow.wholeRows);
  const shallow = plan({ deviceBytes: 10 * MIB }, { hostBytes: 30 * BLOCK });
  assert.match(shallow.refusal!, /below the device, host and disk hold 22118400: .*--kv-disk/);
  assert.equal(shallow.longestRows, 30 * 32);
  assert.equal(shallow.host.used, 0);
  const streaming = plan({ deviceBytes: 10 * MIB }, {}, { policy: "streaming", window: 4096 });
  assert.match(streaming.refusal!, /a smaller window/);
});

Deno.test("tierPlan() never needs more than a tier has, whatever is asked for", () => {
  const options = fc.record({
    kvType: fc.constantFrom("f16" as const, "f32" as const),
    contextLength: fc.integer({ min: 1, max: 131_072 }),
    numSlots: fc.integer({ min: 1, max: 8 }),
    deviceBytes: fc.option(fc.integer({ min: PAGE * 30, max: 512 * MIB })),
  });
  const lower = fc.record({
    hostBytes: fc.integer({ min: 0, max: 1024 * MIB }),
    diskBytes: fc.integer({ min: 0, max: 4096 * MIB }),
  });
  const kv = fc.record({
    policy: fc.constantFrom("dense" as const, "oracle" as const, "quest" as const, "loki" as const),
    sinks: fc.integer({ min: 0, max: 128 }),
    window: fc.integer({ min: 1, max: 512 }),
    budget: fc.record({ rows: fc.integer({ min: 0, max: 4096 }) }),
  });
  let below = 0;
  fc.assert(
    fc.property(options, lower, kv, (o, l, k) => {
      const { device, host, disk, whole, refusal, wholeRows, longestRows } = plan(o, l, k);
      const { all, dense, sinks, window, slots, capacity } = device;
      assert.ok(all + dense + sinks + window + slots <= capacity);
      assert.ok(host.used <= host.capacity && disk.used <= disk.capacity);
      assert.equal(whole, o.contextLength <= wholeRows);
      assert.ok(longestRows >= wholeRows);
      if (o.contextLength <= longestRows) assert.equal(refusal, null);
      if (whole) assert.equal(host.used + disk.used, 0);
      if (refusal === null && !whole) {
        below++;
        assert.ok(sinks + window + dense > 0);
      }
    }),
    { numRuns: 1000 },
  );
  assert.ok(below > 100);
});
