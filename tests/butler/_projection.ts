/** A calibration file with random numbers, for `loki` on a tiny model. @module */
import { encodeCalibration } from "../../src/butler/calibration/file.ts";
import { openModel } from "../../src/model/open.ts";
import { Random } from "../gpu/_rig.ts";

/** The file, and (layers, KV heads, head size, 16). */
export interface TestProjection extends AsyncDisposable {
  readonly file: string;
  /** Matrix of a KV head, (head size, 16). */
  matrix(layer: number, kvHead: number): number[];
}

/** Writes it. */
export async function randomProjection(modelPath: string): Promise<TestProjection> {
  const source = await openModel(modelPath);
  const { numLayers, numKvHeads, headDim } = source.config;
  const fingerprint = await source.fingerprint();
  source.close();
  const size = headDim * 16;
  const projection = new Random(3).floats(numLayers * numKvHeads * size, 0.2)
    .map((x) => Math.max(-1, Math.min(1, x)));
  const file = await Deno.makeTempFile({ suffix: ".safetensors" });
  const bytes = encodeCalibration({
    model: { fingerprint, numLayers, numKvHeads, headDim },
    origin: { tokens: 1, context: 1, program: "test" },
    projection,
  });
  await Deno.writeFile(file, bytes);
  return {
    file,
    matrix(layer, kvHead) {
      const at = (layer * numKvHeads + kvHead) * size;
      return Array.from(projection.subarray(at, at + size));
    },
    [Symbol.asyncDispose]: () => Deno.remove(file),
  };
}
