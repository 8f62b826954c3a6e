import { type DeviceCaps, DeviceError } from "../../src/gpu/device.ts";
import { PLAN_NAMES, selectPlan } from "../../src/gpu/plan.ts";
import { assert } from "std-testing";

/** Caps of a large GPU without subgroups; members are replaced by the cases. */
const BASE: DeviceCaps = {
  description: "Some GPU",
  vendor: "4098",
  software: false,
  subgroups: false,
  subgroupMin: 0,
  subgroupMax: 0,
  f16: true,
  timestamps: true,
  maxBufferSize: 2 ** 31,
  maxBindingSize: 2 ** 30,
  maxWorkgroupSize: 1024,
  maxWorkgroupStorage: 32768,
  uniformAlignment: 256,
  storageAlignment: 256,
};

const CAPS = {
  llvmpipe: { ...BASE, software: true, subgroups: true, subgroupMin: 8, subgroupMax: 8 },
  swiftShader: { ...BASE, software: true, subgroups: true, subgroupMin: 4, subgroupMax: 4 },
  nvidia: { ...BASE, subgroups: true, subgroupMin: 32, subgroupMax: 32 },
  amdWave64: { ...BASE, subgroups: true, subgroupMin: 64, subgroupMax: 64 },
  amdEither: { ...BASE, subgroups: true, subgroupMin: 32, subgroupMax: 64 },
  intel: { ...BASE, subgroups: true, subgroupMin: 8, subgroupMax: 32 },
  unknownSize: { ...BASE, subgroups: true },
  tinySubgroup: { ...BASE, subgroups: true, subgroupMin: 1, subgroupMax: 1 },
  plain: BASE,
  softwarePlain: { ...BASE, software: true },
  least: { ...BASE, maxWorkgroupSize: 64, maxWorkgroupStorage: 16384 },
} as const satisfies Record<string, DeviceCaps>;

Deno.test("selectPlan() takes subgroups only where their size is known", () => {
  const lanes = (caps: DeviceCaps) => {
    const { subgroups, matmulLanes, rowLanes } = selectPlan(caps);
    return [subgroups, matmulLanes, rowLanes];
  };
  assert.deepEqual(lanes(CAPS.llvmpipe), [true, 8, 8]);
  assert.deepEqual(lanes(CAPS.swiftShader), [true, 4, 4]);
  assert.deepEqual(lanes(CAPS.nvidia), [true, 32, 32]);
  assert.deepEqual(lanes(CAPS.amdWave64), [true, 64, 64]);
  for (const name of ["amdEither", "intel", "unknownSize", "tinySubgroup", "plain"] as const) {
    assert.deepEqual(lanes(CAPS[name]), [false, 32, 32], name);
  }
  assert.deepEqual(lanes(CAPS.softwarePlain), [false, 8, 8]);
});

Deno.test("selectPlan() gives sizes that the adapter can run, for every adapter", () => {
  for (const [name, caps] of Object.entries(CAPS)) {
    const plan = selectPlan(caps);
    for (const key of ["matmulLanes", "rowLanes", "attentionLanes"] as const) {
      assert.ok(plan[key] <= caps.maxWorkgroupSize, `${name}: ${key}`);
    }
    assert.equal(plan.tokenTiles[0], 1, name);
    assert.equal(plan.attentionSplit % (plan.attentionLanes * 4), 0, name);
    assert.equal(plan.laneTiles.length > 0, caps.software && plan.subgroups, name);
    assert.equal(plan.attentionForm, caps.software ? "queries" : "tiled", name);
  }
});

Deno.test("selectPlan() takes overrides by name and passes others over", () => {
  const plan = selectPlan(CAPS.llvmpipe, {
    subgroups: "false",
    matmulLanes: "64",
    matvecRows: "12",
    matmulRows: "4",
    tokenTiles: "1,2,4",
    attentionForm: "tiled",
    sample_wg: "64",
    readback: "awaited",
  });
  assert.equal(plan.subgroups, false);
  assert.equal(plan.matmulLanes, 64);
  assert.equal(plan.matvecRows, 12);
  assert.deepEqual(plan.tokenTiles, [1, 2, 4]);
  assert.equal(plan.attentionForm, "tiled");
  assert.deepEqual(plan.laneTiles, []);
  assert.deepEqual(selectPlan(CAPS.llvmpipe, { laneTiles: "none" }).laneTiles, []);
  assert.deepEqual(selectPlan(CAPS.llvmpipe, { laneTiles: "16" }).laneTiles, [16]);
  assert.equal("sample_wg" in plan, false);
  assert.ok(PLAN_NAMES.includes("attentionSplit"));
  assert.deepEqual(PLAN_NAMES.toSorted(), Object.keys(selectPlan(CAPS.plain)).toSorted());
});

function refuses(caps: DeviceCaps, overrides: Record<string, string>, message: RegExp): void {
  const text = JSON.stringify(overrides);
  assert.throws(() => selectPlan(caps, overrides), (error) => {
    assert.ok(error instanceof DeviceError, text);
    assert.match(error.message, message, text);
    return true;
  });
}

Deno.test("selectPlan() refuses overrides that are no numbers", () => {
  for (const bad of ["", "eight", "0", "-4", "2.5", "NaN"]) {
    refuses(CAPS.plain, { matmulLanes: bad }, /matmulLanes=.* is not a whole number above 0/);
  }
  refuses(CAPS.plain, { tokenTiles: "1,x" }, /tokenTiles=1,x/);
  refuses(CAPS.nvidia, { subgroups: "maybe" }, /subgroups=maybe is not true or false/);
});

Deno.test("selectPlan() refuses overrides that the adapter or the kernels cannot take", () => {
  refuses(CAPS.plain, { subgroups: "true" }, /subgroups are not available/);
  refuses(CAPS.nvidia, { matmulLanes: "64" }, /must be the subgroup size, 32/);
  refuses(CAPS.nvidia, { rowLanes: "16" }, /rowLanes must be the subgroup size, 32/);
  refuses(CAPS.plain, { matmulLanes: "24" }, /no power of two/);
  refuses(CAPS.least, { attentionLanes: "128" }, /attentionLanes 128 is no power of two up to 64/);
  refuses(CAPS.plain, { tokenTiles: "2,4" }, /tokenTiles must begin with 1/);
  refuses(CAPS.plain, { matvecRows: "6" }, /multiples of 4/);
  refuses(CAPS.plain, { matmulRows: "7" }, /multiples of 4/);
  refuses(CAPS.plain, { attentionSplit: "200" }, /attentionSplit must be a multiple/);
  refuses(
    CAPS.plain,
    { attentionForm: "round" },
    /attentionForm must be one of tiled, lanes, queries/,
  );
  refuses(CAPS.plain, { laneTiles: "32" }, /laneTiles need subgroups/);
  refuses(CAPS.llvmpipe, { laneTiles: "8,12" }, /laneTiles must be multiples of 8, laneRows of 16/);
  refuses(CAPS.llvmpipe, { laneRows: "24" }, /laneTiles must be multiples of 8, laneRows of 16/);
  refuses(CAPS.least, { matmulRows: "32", tokenTiles: "1,64" }, /a product tile needs \d+ bytes/);
});
