/**
 * Where the time of decode steps goes: on the device from their dispatches, sent again part by part;
 * on the host from watching what is called.
 *
 * @module
 */
import type { KvSettings } from "../src/butler/settings.ts";
import type { Readback } from "../src/gpu/readback.ts";
import { recordDispatches, type RecordedDispatch, replay } from "./_recorder.ts";
import { type Role, rolesOf } from "./_roles.ts";
import { alternate, submission } from "./_timing.ts";

/** Parts of a step on the device. */
export const DEVICE_PARTS = [
  "weights",
  "attention",
  "denseAttention",
  "scores",
  "choice",
  "rowCopies",
] as const;

/** One of {@linkcode DEVICE_PARTS}. `weights` is all that a step does whatever it attends to. */
export type DevicePart = (typeof DEVICE_PARTS)[number];

const PART_OF: Readonly<Partial<Record<Role, DevicePart>>> = {
  "attention": "attention",
  "attention merge": "attention",
  "importance": "scores",
  "scores": "scores",
  "choice": "choice",
  "row copies": "rowCopies",
};

/** Dispatches of whole steps by part; attention of dense layers apart. */
export function splitParts(
  dispatches: readonly RecordedDispatch[],
  layers: readonly Pick<KvSettings["layers"][number], "role">[],
): Map<DevicePart, RecordedDispatch[]> {
  const parts = new Map<DevicePart, RecordedDispatch[]>();
  let layer = -1;
  rolesOf(dispatches).forEach((role, index) => {
    if (role === "embedding" && index > 0 && layer >= 0) layer = -1;
    if (role === "rope + cache") layer++;
    const part = PART_OF[role] ?? "weights";
    const dense = part === "attention" && layers[layer]?.role === "dense";
    const name = dense ? "denseAttention" : part;
    parts.set(name, [...parts.get(name) ?? [], dispatches[index]!]);
  });
  return parts;
}

/**
 * Milliseconds of one step by part: the least of some rounds over all parts.
 *
 * @param steps Runs steps; what a part takes is divided by `count`, the number of them.
 */
export async function measureParts(
  device: GPUDevice,
  readback: Readback,
  layers: KvSettings["layers"],
  steps: () => Promise<unknown>,
  count: number,
  rounds: number,
): Promise<Readonly<Record<DevicePart, number>>> {
  const parts = [...splitParts(await recordDispatches(device, steps), layers)];
  const timed = [];
  for (const [, dispatches] of parts) {
    timed.push(await submission(device, readback, (pass) => replay(pass, dispatches)));
  }
  const times = await alternate(timed, rounds);
  const ms = Object.fromEntries(DEVICE_PARTS.map((name) => [name, 0]));
  parts.forEach(([name], index) => ms[name] = Math.min(...times[index]!.wallMs) / count);
  return ms as Record<DevicePart, number>;
}

/** Time and bytes that went through a watched method. */
export interface Watched {
  ms: number;
  bytes: number;
}

/** Methods of an object, covered by ones that note the time that they take. */
export class Watch implements Disposable {
  readonly #undo: (() => void)[] = [];

  /**
   * Covers methods until this is disposed of; of one that gives a promise the time of the call counts.
   *
   * @param target An object, or a prototype for all that have it.
   * @param bytesOf Bytes of a call, from its arguments.
   */
  cover<T extends object>(
    target: T,
    names: readonly (keyof T & string)[],
    bytesOf: (args: readonly unknown[]) => number = () => 0,
  ): Watched {
    const watched: Watched = { ms: 0, bytes: 0 };
    for (const name of names) {
      const original = target[name] as unknown as (...args: unknown[]) => unknown;
      const own = Object.getOwnPropertyDescriptor(target, name);
      const covered = function (this: unknown, ...args: unknown[]): unknown {
        const began = performance.now();
        try {
          return original.apply(this, args);
        } finally {
          watched.ms += performance.now() - began;
          watched.bytes += bytesOf(args);
        }
      };
      Object.defineProperty(target, name, { value: covered, configurable: true, writable: true });
      this.#undo.push(() => {
        if (own === undefined) Reflect.deleteProperty(target, name);
        else Object.defineProperty(target, name, own);
      });
    }
    return watched;
  }

  [Symbol.dispose](): void {
    for (const undo of this.#undo.reverse()) undo();
    this.#undo.length = 0;
  }
}

/** Bytes of a call of `GPUQueue.writeBuffer(buffer, offset, data, dataOffset, size)`. */
export function writeBytes([, , data, dataOffset = 0, size]: readonly unknown[]): number {
  const source = data as ArrayBuffer | ArrayBufferView<ArrayBuffer>;
  const unit = "BYTES_PER_ELEMENT" in source ? Number(source.BYTES_PER_ELEMENT) : 1;
  return size === undefined ? source.byteLength - Number(dataOffset) * unit : Number(size) * unit;
}
