/** Files that come from elsewhere, and what opens them. @module */
import { assert } from "std-testing";
import { encodePredictor, readPredictor } from "../../src/butler/predictor/file.ts";
import { PredictorError } from "../../src/butler/predictor/errors.ts";
import { CalibrationError } from "../../src/butler/calibration/errors.ts";
import { encodeCalibration, readCalibration } from "../../src/butler/calibration/file.ts";
import { HEADER_BYTES } from "../../src/kv/store/sizes.ts";
import { BLOCK_ROWS } from "../../src/kv/store/types.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { openModel } from "../../src/model/open.ts";
import { loadTokenizer } from "../../src/tokenizer/load.ts";
import { ggufParts, llamaFolder, writeGguf, writeSafetensors } from "../_model_files.ts";
import { madeUp, MODEL as CALIBRATED } from "../butler/_calibration.ts";
import { randomPredictor } from "../butler/_predictor.ts";
import { Random as Floats } from "../gpu/_rig.ts";
import { MemoryFiles } from "../kv/store/_memory_files.ts";
import { makePart, makeStore, SHAPE, SIZES } from "../kv/store/_store.ts";
import type { FuzzCase } from "./_cases.ts";
import { caseRandom, mutateBytes, mutateJson, type Mutation, type Random } from "./_mutate.ts";

/** One kind of file. */
export interface FileTarget {
  readonly name: string;
  /** Puts into the folder what does not change. */
  prepare?(folder: string): void;
  mutate(random: Random): Mutation;
  /** Opens the file; false if it was refused by an error that has a name. */
  open(folder: string, bytes: Uint8Array): Promise<boolean> | boolean;
}

const TEXT = "What a file says of itself is not to be trusted. <|x|> 1234";
const TINY = new URL("../data/tiny/llama31-bf16/", import.meta.url).pathname;

/** Opens a model and its tokenizer, and uses both. */
async function usesModel(path: string): Promise<boolean> {
  try {
    const model = await openModel(path);
    try {
      await model.fingerprint();
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
  const { metadata, tensors } = ggufParts();
  const { bytes, sections } = writeGguf(metadata, tensors);
  const head = sections.at(-2)!;
  return {
    name: "gguf",
    mutate: (random) => mutateBytes(bytes, head, random),
    open(folder, spoiled) {
      Deno.writeFileSync(`${folder}/m.gguf`, spoiled);
      return usesModel(`${folder}/m.gguf`);
    },
  };
}

/** A Hugging Face folder of which one file is spoiled. */
function folderTarget(name: string, file: string, mutate: FileTarget["mutate"]): FileTarget {
  return {
    name,
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
  return folderTarget("safetensors", "model.safetensors", mutate);
}

function config(): FileTarget {
  const text = JSON.stringify(llamaFolder().config);
  return folderTarget("config", "config.json", (random) => mutateJson(text, random));
}

function tokenizer(): FileTarget {
  const text = Deno.readTextFileSync(`${TINY}tokenizer.json`);
  return {
    name: "tokenizer",
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

/** A saved beginning of a prompt: if it is used at all, it is what was saved. */
function prefixBlock(): FileTarget {
  const ids = Array.from({ length: BLOCK_ROWS }, (_, i) => i);
  const parts = Array.from({ length: SHAPE.numLayers }, (_, layer) => makePart(layer));
  const files = new MemoryFiles();
  const { store } = makeStore(8, null, { files, prefixDir: "/p" });
  const keys = store.prefixKeys(ids);
  const sequence = store.open();
  parts.forEach((part, layer) => sequence.putPart(0, layer, part));
  store.offerPrefix(keys[0]!, sequence, 0);
  sequence[Symbol.dispose]();
  store[Symbol.dispose]();
  const { bytes } = [...files.contents.values()][0]!;
  return {
    name: "prefix",
    mutate: (random) => mutateBytes(bytes, HEADER_BYTES, random),
    open(folder, spoiled) {
      Deno.mkdirSync(`${folder}/p`, { recursive: true });
      Deno.writeFileSync(`${folder}/p/${keys[0]}.kv`, spoiled);
      const { store } = makeStore(8, null, { prefixDir: `${folder}/p` });
      try {
        const adopted = store.adoptPrefix(keys);
        if (adopted.numBlocks === 0) return false;
        const read = new Uint8Array(SIZES.part);
        parts.forEach((part, layer) => {
          adopted.readPart(0, layer, read, 0);
          assert.deepEqual(read, part, "a damaged block was served");
        });
        return true;
      } finally {
        store[Symbol.dispose]();
      }
    },
  };
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
