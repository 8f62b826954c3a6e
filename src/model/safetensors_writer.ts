/** Writes `.safetensors` files: f32 tensors and text about them. @module */

/** A tensor to be written. */
export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/**
 * Bytes of a file: the same content always gives the same ones.
 *
 * @param metadata Free text under names.
 * @throws {RangeError} If a tensor has not as many values as its shape says.
 */
export function encodeSafetensors(
  metadata: Readonly<Record<string, string>>,
  tensors: readonly NamedTensor[],
): Uint8Array<ArrayBuffer> {
  const table: Record<string, unknown> = { __metadata__: metadata };
  let end = 0;
  for (const { name, shape, values } of tensors) {
    if (shape.reduce((product, size) => product * size, 1) !== values.length) {
      throw new RangeError(`${name} has ${values.length} values, not [${shape.join(", ")}]`);
    }
    table[name] = { dtype: "F32", shape, data_offsets: [end, end + values.byteLength] };
    end += values.byteLength;
  }
  const text = new TextEncoder().encode(JSON.stringify(table));
  // Data begins at a multiple of eight, as other writers of the format have it.
  const headerBytes = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + headerBytes + end).fill(0x20);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(headerBytes), true);
  bytes.set(text, 8);
  let at = 8 + headerBytes;
  for (const { values } of tensors) {
    for (const value of values) {
      view.setFloat32(at, value, true);
      at += 4;
    }
  }
  return bytes;
}
