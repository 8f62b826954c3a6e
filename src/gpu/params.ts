/**
 * Uniform structs, declared once: the same declaration yields the WGSL text and the packer, so that
 * host and shader cannot drift apart. All members are 4-byte scalars, which makes the WGSL layout
 * plain: member i lies at byte 4 i.
 *
 * @module
 */

/** Scalar type of a member. */
export type ParamType = "u32" | "i32" | "f32";

/** A declared struct. */
export interface ParamStruct<Name extends string = string> {
  readonly wgsl: string;
  /** Bytes, a multiple of 16. */
  readonly size: number;
  readonly members: readonly Name[];
  /** Writes the values into 4-byte words. */
  pack(values: Readonly<Record<Name, number>>): Uint32Array<ArrayBuffer>;
}

/**
 * Declares a uniform struct.
 *
 * @param name Name of the struct in WGSL.
 * @param members Member names and their types, in order.
 */
export function defineParams<Name extends string>(
  name: string,
  members: Readonly<Record<Name, ParamType>>,
): ParamStruct<Name> {
  const names = Object.keys(members) as Name[];
  const words = Math.ceil(names.length / 4) * 4;
  const lines = names.map((member) => `  ${member}: ${members[member]},`);
  return {
    wgsl: `struct ${name} {\n${lines.join("\n")}\n}\n`,
    size: words * 4,
    members: names,
    pack(values) {
      const out = new Uint32Array(words);
      const view = new DataView(out.buffer);
      names.forEach((member, index) => {
        const value = values[member];
        const type = members[member];
        if (type === "f32") view.setFloat32(index * 4, value, true);
        else if (!Number.isInteger(value)) {
          throw new RangeError(`${name}.${member} must be an integer, got ${value}`);
        } else if (type === "u32") view.setUint32(index * 4, value, true);
        else view.setInt32(index * 4, value, true);
      });
      return out;
    },
  };
}
