/** The names that `--kernel NAME=VALUE` takes, of all tables together. @module */
import { DeviceError } from "../gpu/device.ts";
import { PLAN_NAMES } from "../gpu/plan.ts";
import { nearest } from "../suggest.ts";

const READBACK_WAYS = ["sync", "awaited"] as const;

/** How results come back from the device. */
export type ReadbackWay = typeof READBACK_WAYS[number];

/** Every name that some table looks up; who makes a new one adds it here. */
export const OVERRIDE_NAMES: readonly string[] = [
  ...PLAN_NAMES,
  "sample_wg",
  "sample_splits",
  "readback",
  "maxBindingBytes",
];

/**
 * Refuses names that no table looks up. Values are checked where they are used.
 *
 * @throws {DeviceError} If there is one.
 */
export function checkOverrideNames(overrides: Readonly<Record<string, string>>): void {
  for (const name of Object.keys(overrides)) {
    if (OVERRIDE_NAMES.includes(name)) continue;
    const near = nearest(name, OVERRIDE_NAMES);
    const hint = near === undefined ? "" : ` (did you mean ${near}?)`;
    throw new DeviceError(
      "bad_setting",
      `there is no kernel setting ${name}${hint}: --kernel takes ${OVERRIDE_NAMES.join(", ")}`,
    );
  }
}

/**
 * The way that is asked for, if any.
 *
 * @throws {DeviceError} If there is none of that name.
 */
export function readbackOverride(
  { readback: asked }: Readonly<Record<string, string>>,
): { readback?: ReadbackWay } {
  if (asked === undefined) return {};
  const readback = READBACK_WAYS.find((way) => way === asked);
  if (readback !== undefined) return { readback };
  throw new DeviceError("bad_setting", `readback must be one of ${READBACK_WAYS.join(", ")}`);
}
