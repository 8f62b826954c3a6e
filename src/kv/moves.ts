/**
 * Keys and values that go from tier to tier, counted where they do. Rows between device and disk pass
 * through the host, so there are two ways to count: host and device, host and disk.
 *
 * @module
 */

/** What came to a tier from the host and what left it for the host, in bytes. Both only grow. */
export interface TierTraffic {
  came: number;
  left: number;
}

/** Bytes of keys and values by direction, whatever became of them. */
export interface MovedBytes {
  readonly deviceToHost: number;
  readonly hostToDevice: number;
  readonly hostToDisk: number;
  readonly diskToHost: number;
}

/** Of an engine that has not done anything. */
export const NOTHING_MOVED: MovedBytes = {
  deviceToHost: 0,
  hostToDevice: 0,
  hostToDisk: 0,
  diskToHost: 0,
};

/** Puts together what the two tiers beside the host counted. */
export function movedBytes(
  device: Readonly<TierTraffic>,
  disk: Readonly<TierTraffic>,
): MovedBytes {
  return {
    deviceToHost: device.left,
    hostToDevice: device.came,
    hostToDisk: disk.came,
    diskToHost: disk.left,
  };
}
