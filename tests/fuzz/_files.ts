/** Files that come from elsewhere, and what opens them. @module */
import { encodePredictor, readPredictor } from "../../src/butler/predictor/file.ts";
import { PredictorError } from "../../src/butler/predictor/errors.ts";
import { CalibrationError } from "../../src/butler/calibration/errors.ts";
import { encodeCalibration, readCalibration } from "../../src/butler/calibration/file.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { openModel } from "../../src/model/open.ts";
import { dequantizeRow } from "../../src/model/quants.ts";
import type { WeightTensor } from "../../src/model/types.ts";
import { loadTokenizer } from "../../src/tokenizer/load.ts";
import { llamaFolder, writeSafetensors } from "../_model_files.ts";
import { madeUp, MODEL as CALIBRATED } from "../butler/_calibration.ts";
import { randomPredictor } from "../butler/_predictor.ts";
import { Random as Floats } from "../gpu/_rig.ts";
import type { FuzzCase } from "./_cases.ts";
import { goodGgufs } from "./_gguf.ts";
import {
  caseRandom,
  mutateBytes,
  mutateJson,
  type Mutation,
  oneOf,
  type Random,
} from "./_mutate.ts";
import { prefixBlock, slotFile } from "./_stored.ts";

/** One kind of file. */
export interface FileTarget {
  readonly name: string;
  /** Files that are taken as they are. */
  readonly good: readonly Uint8Array[];
  /** Puts into the folder what does not change. */
  prepare?(folder: string): void;
  mutate(random: Random): Mutation;
  /** Opens the file; false if it was refused by an error that has a name. */
  open(folder: string, bytes: Uint8Array): Promise<boolean> | boolean;
}

const TEXT = "What a file says of itself is not to be trusted. <|x|> 1234";
const TINY = new URL("../data/tiny/llama31-bf16/", import.meta.url).pathname;

/** Reads a matrix and unpacks its last row. */
async function unpack({ type, rows, cols, byteLength, readInto }: WeightTensor): Promise<void> {
  const bytes = new Uint8Array(byteLength);
  await readInto(bytes, 0);
  dequantizeRow(type, bytes.subarray((rows - 1) * (byteLength / rows)), new Float32Array(cols));
}

/** Opens a model and its tokenizer, and uses all of it. */
async function usesModel(path: string): Promise<boolean> {
  try {
    const model = await openModel(path);
    try {
      await model.fingerprint();
      for (const tensor of model.tensors.values()) await unpack(tensor);
      if (model.tokenizer !== undefined) {
        const tokenizer = loadTokenizer(model.tokenizer, path, model.config.vocabSize);
        tokenizer.decode(tokenizer.encode(TEXT, { parseSpecial: true, addBos: true }));
      }
    } finally {
      model.close();
    }
    return true;
  } catch (error) {
    if (error instanceof ModelFileError) return false;
    throw error;
  }
}

function gguf(): FileTarget {
  const files = goodGgufs();
  return {
    name: "gguf",
    good: files.map(({ bytes }) => bytes),
    mutate(random) {
      const { bytes, head } = oneOf(random, files);
      return mutateBytes(bytes, head, random);
    },
    open(folder, spoiled) {
      Deno.writeFileSync(`${folder}/m.gguf`, spoiled);
      return usesModel(`${folder}/m.gguf`);
    },
  };
}

/** A Hugging Face folder of which one file is spoiled. */
function folderTarget(
  name: string,
  file: string,
  good: Uint8Array,
  mutate: FileTarget["mutate"],
): FileTarget {
  return {
    name,
    good: [good],
    prepare(folder) {
      const { config, tensors } = llamaFolder();
      Deno.writeTextFileSync(`${folder}/config.json`, JSON.stringify(config));
      Deno.writeFileSync(`${folder}/model.safetensors`, writeSafetensors(tensors));
    },
    mutate,
    open(folder, spoiled) {
      Deno.writeFileSync(`${folder}/${file}`, spoiled);
      return usesModel(folder);
    },
  };
}

function safetensors(): FileTarget {
  const bytes = writeSafetensors(llamaFolder().tensors);
  const head = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const mutate = (random: Random) => mutateBytes(bytes, head, random);
  return folderTarget("safetensors", "model.safetensors", bytes, mutate);
}

function config(): FileTarget {
  const text = JSON.stringify(llamaFolder().config);
  const mutate = (random: Random) => mutateJson(text, random);
  return folderTarget("config", "config.json", new TextEncoder().encode(text), mutate);
}

function tokenizer(): FileTarget {
  const text = Deno.readTextFileSync(`${TINY}tokenizer.json`);
  return {
    name: "tokenizer",
    good: [new TextEncoder().encode(text)],
    prepare(folder) {
      for (const { name } of Deno.readDirSync(TINY)) {
        if (name !== "tokenizer.json") Deno.copyFileSync(`${TINY}${name}`, `${folder}/${name}`);
      }
    },
    mutate: (random) => mutateJson(text, random),
    open(folder, spoiled) {
      Deno.writeFileSync(`${folder}/tokenizer.json`, spoiled);
      return usesModel(folder);
    },
  };
}

/** A file beside the model, refused by errors of its own. */
function sideFile(
  name: string,
  bytes: Uint8Array,
  read: (path: string) => unknown,
  named: new (...args: never[]) => Error,
): FileTarget {
  const head = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  return {
    name,
    good: [bytes],
    mutate: (random) => mutateBytes(bytes, head, random),
    open(folder, spoiled) {
      const path = `${folder}/${name}.safetensors`;
      Deno.writeFileSync(path, spoiled);
      try {
        read(path);
        return true;
      } catch (error) {
        if (error instanceof named) return false;
        throw error;
      }
    },
  };
}

function calibration(): FileTarget {
  return sideFile(
    "calibration",
    encodeCalibration(madeUp()),
    (path) => readCalibration(path, CALIBRATED),
    CalibrationError,
  );
}

function predictor(): FileTarget {
  const model = {
    fingerprint: "a".repeat(64),
    numLayers: 9,
    hiddenSize: 24,
    numHeads: 4,
    numKvHeads: 2,
    headDim: 16,
  };
  const bytes = encodePredictor({
    predictor: randomPredictor({ model, stride: 4, inner: 8 }, new Floats(7)),
    notes: { training: { seed: 7 }, results: { recall: 0.5 }, budgets: null, program: "1.2.3" },
  });
  return sideFile("predictor", bytes, (path) => readPredictor(path, model), PredictorError);
}

/** Every kind. */
export const FILE_TARGETS: readonly (() => FileTarget)[] = [
  gguf,
  safetensors,
  config,
  tokenizer,
  calibration,
  predictor,
  prefixBlock,
  slotFile,
];

/** Spoiled files of a kind, from a seed. */
export function* fileCases(
  target: FileTarget,
  folder: string,
  seed: number,
  first: number,
  count: number,
): Generator<FuzzCase> {
  target.prepare?.(folder);
  for (let index = first; index < first + count; index++) {
    const { note, bytes } = target.mutate(caseRandom(seed, index));
    yield {
      note: `${target.name}: ${note}`,
      bytes: bytes.length,
      run: () => target.open(folder, bytes),
    };
  }
}
