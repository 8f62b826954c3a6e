import { assert } from "std-testing";
import { openKernels } from "../../src/engine/create.ts";
import {
  checkOverrideNames,
  OVERRIDE_NAMES,
  readbackOverride,
} from "../../src/engine/kernel_overrides.ts";

const name = "DeviceError";

Deno.test("a kernel setting that no table knows is refused, with the nearest and with all names", async () => {
  checkOverrideNames(Object.fromEntries(OVERRIDE_NAMES.map((known) => [known, "1"])));
  const refused = (overrides: Record<string, string>, message: RegExp) =>
    assert.throws(() => checkOverrideNames(overrides), { name, message });
  refused({ rowLane: "8" }, /no kernel setting rowLane \(did you mean rowLanes\?\)/);
  refused({ readback: "sync", x: "y" }, /no kernel setting x: --kernel takes matmulLanes, .*, /);
  // Before a device is opened.
  await assert.rejects(openKernels({ x: "y" }), { name, message: /no kernel setting x/ });
});

Deno.test("readbackOverride() takes a way that there is", () => {
  assert.deepEqual(readbackOverride({ rowLanes: "8" }), {});
  assert.deepEqual(readbackOverride({ readback: "awaited" }), { readback: "awaited" });
  const message = "readback must be one of sync, awaited";
  assert.throws(() => readbackOverride({ readback: "later" }), { name, message });
});
