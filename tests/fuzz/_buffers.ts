/** Counts what code asks for in buffers, be it dropped at once. @module */

const KINDS = [
  "ArrayBuffer",
  "SharedArrayBuffer",
  "Uint8Array",
  "Uint8ClampedArray",
  "Int8Array",
  "Uint16Array",
  "Int16Array",
  "Float16Array",
  "Uint32Array",
  "Int32Array",
  "Float32Array",
  "Float64Array",
  "BigInt64Array",
  "BigUint64Array",
] as const;

interface Sized {
  readonly byteLength: number;
}

type Kind = new (...args: unknown[]) => Sized;

/**
 * Stands in front of the constructors of buffers of this isolate until it is disposed of. What the
 * collector frees before anybody looks at the heap is counted too.
 */
export class BufferCount implements Disposable {
  /** Bytes since the start; set it to 0 at will. */
  bytes = 0;
  readonly #originals = new Map<string, Kind>();

  constructor() {
    for (const name of KINDS) {
      const original = Reflect.get(globalThis, name) as Kind | undefined;
      if (original === undefined) continue;
      this.#originals.set(name, original);
      const counting: Kind = new Proxy(original, {
        construct: (target, args, made) => {
          const object = Reflect.construct(target, args, made === counting ? target : made);
          // A view of a buffer has none of its own.
          if (!isBuffer(args[0])) this.bytes += (object as Sized).byteLength;
          return object;
        },
      });
      Reflect.set(globalThis, name, counting);
    }
  }

  [Symbol.dispose](): void {
    for (const [name, original] of this.#originals) Reflect.set(globalThis, name, original);
  }
}

function isBuffer(value: unknown): boolean {
  return value instanceof ArrayBuffer || value instanceof SharedArrayBuffer;
}
