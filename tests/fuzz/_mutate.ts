/** Ways to spoil a file, all decided by a seed. @module */
import { seededRandom } from "../_model_files.ts";

/** A source of numbers from 0 to 1. */
export type Random = () => number;

/** What became of a file. */
export interface Mutation {
  /** What was done, for whoever looks for the cause of a failure. */
  readonly note: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Numbers at which counts, lengths and offsets go wrong. */
const NUMBERS = [0n, 1n, 0x7fn, 0xffn, 0x7fff_ffffn, 0x8000_0000n, 0xffff_ffffn, 1n << 53n, -1n];
/** Values that JSON may have where something else is expected. */
const VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  0.5,
  1e9,
  2 ** 53,
  1e308,
  "",
  "x",
  "../../x",
  "\u0000",
  "\ud800",
  "<0x-1>",
  "9".repeat(400),
  "a".repeat(70_000),
  [],
  {},
  [[]],
  [null],
  { "__proto__": 1, constructor: 2 },
  Array.from({ length: 2000 }, (_, i) => i),
];

/** A number from 0 up to, and not including, `end`. */
export function below(random: Random, end: number): number {
  return Math.floor(random() * end);
}

/** One of some. */
export function oneOf<T>(random: Random, of: readonly T[]): T {
  return of[below(random, of.length)]!;
}

/** The source of numbers of a case: each case can be made again by itself. */
export function caseRandom(seed: number, index: number): Random {
  const random = seededRandom(Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  for (let i = 0; i < 4; i++) random();
  return random;
}

/**
 * Spoils a binary file.
 *
 * @param head Bytes at the beginning that most changes go to: a header says more than data does.
 */
export function mutateBytes(
  bytes: Uint8Array,
  head: number,
  random: Random,
): Mutation {
  const reach = Math.max(1, random() < 0.85 ? Math.min(head, bytes.length) : bytes.length);
  const at = below(random, reach);
  const copy = bytes.slice() as Uint8Array<ArrayBuffer>;
  const view = new DataView(copy.buffer);
  switch (below(random, 7)) {
    case 0: {
      const flips = 1 + below(random, 8);
      for (let i = 0; i < flips; i++) {
        const where = below(random, reach);
        copy[where] = copy[where]! ^ 1 << below(random, 8);
      }
      return { note: `${flips} bits flipped before ${reach}`, bytes: copy };
    }
    case 1:
      return { note: `cut at ${at}`, bytes: copy.slice(0, at) };
    case 2: {
      const number = oneOf(random, NUMBERS);
      if (at + 8 > copy.length) return { note: `cut at ${at}`, bytes: copy.slice(0, at) };
      view.setBigUint64(at, BigInt.asUintN(64, number), true);
      return { note: `64 bits at ${at} are ${number}`, bytes: copy };
    }
    case 3: {
      const number = Number(BigInt.asUintN(32, oneOf(random, NUMBERS)));
      if (at + 4 > copy.length) return { note: `cut at ${at}`, bytes: copy.slice(0, at) };
      view.setUint32(at, number, true);
      return { note: `32 bits at ${at} are ${number}`, bytes: copy };
    }
    case 4: {
      const end = Math.min(bytes.length, at + 1 + below(random, 64));
      return { note: `${at} to ${end} are gone`, bytes: joined(bytes, at, [], end) };
    }
    case 5: {
      const more = Array.from({ length: 1 + below(random, 64) }, () => below(random, 256));
      return { note: `${more.length} bytes came at ${at}`, bytes: joined(bytes, at, more, at) };
    }
    default: {
      const from = below(random, bytes.length);
      const length = Math.min(1 + below(random, 64), bytes.length - from, copy.length - at);
      copy.set(bytes.subarray(from, from + length), at);
      return { note: `${length} bytes of ${from} stand at ${at}`, bytes: copy };
    }
  }
}

function joined(bytes: Uint8Array, end: number, more: readonly number[], start: number) {
  const out = new Uint8Array(end + more.length + bytes.length - start);
  out.set(bytes.subarray(0, end));
  out.set(more, end);
  out.set(bytes.subarray(start), end + more.length);
  return out;
}

/** Spoils text that is JSON: mostly so that it still is JSON, which gets further in. */
export function mutateJson(text: string, random: Random): Mutation {
  const encoder = new TextEncoder();
  if (random() < 0.25) return mutateBytes(encoder.encode(text), Infinity, random);
  const root = { value: JSON.parse(text) as unknown };
  const notes: string[] = [];
  for (let count = 1 + below(random, 3); count > 0; count--) {
    const places = placesOf(root);
    const { parent, key, path } = oneOf(random, places);
    const owner = parent as Record<string, unknown>;
    switch (below(random, 4)) {
      case 0:
        if (Array.isArray(parent)) parent.splice(Number(key), 1);
        else if (parent !== root) delete owner[key];
        notes.push(`${path} is gone`);
        break;
      case 1: {
        const other = oneOf(random, places);
        owner[key] = structuredClone((other.parent as Record<string, unknown>)[other.key]);
        notes.push(`${path} is ${other.path}`);
        break;
      }
      case 2: {
        const depth = 1 + below(random, 2000);
        owner[key] = nested(depth);
        notes.push(`${path} is ${depth} lists deep`);
        break;
      }
      default: {
        const value = structuredClone(oneOf(random, VALUES));
        owner[key] = value;
        notes.push(`${path} is ${JSON.stringify(value).slice(0, 40)}`);
      }
    }
  }
  return { note: notes.join(", "), bytes: encoder.encode(JSON.stringify(root.value)) };
}

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = [value];
  return value;
}

interface Place {
  readonly parent: object;
  readonly key: string;
  readonly path: string;
}

/** Places of all values; of long lists only some. */
function placesOf(root: { readonly value: unknown }): Place[] {
  const places: Place[] = [];
  const visit = (parent: object, path: string, depth: number) => {
    const keys = Object.keys(parent);
    const step = Math.max(1, Math.floor(keys.length / 200));
    for (let i = 0; i < keys.length; i += step) {
      const key = keys[i]!;
      const here = path === "" ? key : `${path}.${key}`;
      places.push({ parent, key, path: here });
      const value = (parent as Record<string, unknown>)[key];
      if (depth < 20 && value !== null && typeof value === "object") visit(value, here, depth + 1);
    }
  };
  visit(root, "", 0);
  return places;
}
