import { assert } from "std-testing";
import { DEFAULT_MODEL } from "../../src/assets.ts";
import {
  ggufParts,
  llamaFolder,
  seededRandom,
  withFiles,
  writeGguf,
  writeSafetensors,
} from "../_model_files.ts";
import { Bounds } from "./_refusal.ts";

const LONG_VALUES = [0n, 1n, 1n << 31n, 1n << 32n, 1n << 53n, 1n << 63n, (1n << 64n) - 1n];
const SHORT_VALUES = [0, 1, 4, 8, 9, 10, 13, 255, 1 << 31 >>> 0, 0xffffffff];
const SEED = 20240731;

const WHOLE = writeGguf(ggufParts().metadata, ggufParts().tensors);

/** Writes each mutation to the same file and opens it. */
async function tryAll(cases: Iterable<readonly [note: string, bytes: Uint8Array]>) {
  const bounds = new Bounds();
  await withFiles({}, async (folder) => {
    for (const [note, bytes] of cases) {
      await Deno.writeFile(`${folder}/m.gguf`, bytes);
      await bounds.run(`${folder}/m.gguf`, () => note);
    }
  });
  bounds.assertNoLeak();
  return bounds;
}

/** Flips `flips` random bits before `end`. */
function flipped(bytes: Uint8Array, end: number, flips: number, random: () => number): Uint8Array {
  const copy = bytes.slice();
  for (let i = 0; i < flips; i++) {
    const at = Math.floor(random() * end);
    copy[at] = copy[at]! ^ 1 << Math.floor(random() * 8);
  }
  return copy;
}

Deno.test("openModel() survives every lying count, length, dimension and offset", async () => {
  const { bytes, longFields, shortFields } = WHOLE;
  function* cases(): Generator<[string, Uint8Array]> {
    for (const at of longFields) {
      for (const value of LONG_VALUES) {
        const copy = bytes.slice();
        new DataView(copy.buffer).setBigUint64(at, value, true);
        yield [`64-bit field at ${at} set to ${value}`, copy];
      }
    }
    for (const at of shortFields) {
      for (const value of SHORT_VALUES) {
        const copy = bytes.slice();
        new DataView(copy.buffer).setUint32(at, value, true);
        yield [`32-bit field at ${at} set to ${value}`, copy];
      }
    }
  }
  const { refused, opened } = await tryAll(cases());
  assert.ok(refused + opened >= 800, `only ${refused + opened} cases`);
  assert.ok(refused > 0.85 * (refused + opened), `${opened} of ${refused + opened} were opened`);
});

Deno.test("openModel() survives truncation in every section", async () => {
  const { bytes, sections } = WHOLE;
  function* cases(): Generator<[string, Uint8Array]> {
    for (let at = 0; at < 64; at++) yield [`cut at ${at}`, bytes.slice(0, at)];
    for (const end of sections) {
      for (const at of [end - 9, end - 1, end, end + 1]) {
        if (at >= 0 && at < bytes.length) yield [`cut at ${at}`, bytes.slice(0, at)];
      }
    }
  }
  const { opened, refused } = await tryAll(cases());
  assert.equal(opened, 0);
  assert.ok(refused > 150, `only ${refused} cases`);
});

Deno.test("openModel() survives random bit flips in a GGUF header", async () => {
  const random = seededRandom(SEED);
  const end = WHOLE.sections.at(-2)!;
  function* cases(): Generator<[string, Uint8Array]> {
    for (let i = 0; i < 400; i++) {
      yield [`seed ${SEED} case ${i}`, flipped(WHOLE.bytes, end, 1 + i % 4, random)];
    }
  }
  const { opened, refused } = await tryAll(cases());
  assert.equal(opened + refused, 400);
  assert.ok(refused > 100 && opened > 0, `${refused} refused, ${opened} opened`);
});

Deno.test("openModel() survives bit flips in the header of a real vocabulary", async () => {
  const path = new URL(`../../${DEFAULT_MODEL.path}`, import.meta.url).pathname;
  const random = seededRandom(SEED);
  const header = new Uint8Array(1_785_664);
  using file = await Deno.open(path);
  await file.read(header);
  const bounds = new Bounds();
  await withFiles({ "m.gguf": header }, async (folder) => {
    const target = `${folder}/m.gguf`;
    // A hole in the file stands for the weights.
    await Deno.truncate(target, (await Deno.stat(path)).size);
    for (let i = 0; i < 25; i++) {
      using copy = await Deno.open(target, { write: true });
      await copy.write(flipped(header, header.length, 2 + i % 8, random));
      await bounds.run(target, () => `seed ${SEED} case ${i}`);
    }
  });
  assert.equal(bounds.opened + bounds.refused, 25);
});

Deno.test("openModel() survives mutated safetensors headers", async () => {
  const { config, tensors } = llamaFolder();
  const bytes = writeSafetensors(tensors);
  const end = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const random = seededRandom(SEED);
  const bounds = new Bounds();
  const files = { "config.json": JSON.stringify(config), "model.safetensors": bytes };
  await withFiles(files, async (folder) => {
    const attempt = async (note: string, mutated: Uint8Array) => {
      await Deno.writeFile(`${folder}/model.safetensors`, mutated);
      await bounds.run(folder, () => note);
    };
    for (const value of [...LONG_VALUES, BigInt(end), BigInt(bytes.length)]) {
      const copy = bytes.slice();
      new DataView(copy.buffer).setBigUint64(0, value, true);
      await attempt(`header length ${value}`, copy);
    }
    for (const at of [0, 7, 8, 9, end - 1, end, end + 1, bytes.length - 1]) {
      await attempt(`cut at ${at}`, bytes.slice(0, at));
    }
    assert.equal(bounds.opened, 0);
    for (let i = 0; i < 200; i++) {
      await attempt(`seed ${SEED} case ${i}`, flipped(bytes, end, 1 + i % 4, random));
    }
  });
  assert.ok(bounds.refused > 150, `${bounds.refused} refused`);
});

Deno.test("openModel() survives mutated JSON of a model folder", async () => {
  const { config, tensors } = llamaFolder();
  const texts: Record<string, string> = {
    "config.json": JSON.stringify({ ...config, rope_scaling: { rope_type: "linear", factor: 2 } }),
    "tokenizer.json": JSON.stringify({ model: { type: "BPE", vocab: { a: 0 }, merges: [] } }),
    "tokenizer_config.json": JSON.stringify({ chat_template: "{{ messages }}" }),
    "generation_config.json": JSON.stringify({ eos_token_id: [1, 2] }),
  };
  const random = seededRandom(SEED);
  const bounds = new Bounds();
  const files = { ...texts, "model.safetensors": writeSafetensors(tensors) };
  await withFiles(files, async (folder) => {
    await bounds.run(folder, () => "unchanged");
    assert.equal(bounds.opened, 1);
    for (const [name, content] of Object.entries(texts)) {
      const whole = new TextEncoder().encode(content);
      const attempt = async (note: string, mutated: Uint8Array) => {
        await Deno.writeFile(`${folder}/${name}`, mutated);
        await bounds.run(folder, () => `${name}, ${note}`);
      };
      const opened: number = bounds.opened;
      await attempt("deep arrays", new TextEncoder().encode("[".repeat(200_000)));
      await attempt("deep objects", new TextEncoder().encode('{"a":'.repeat(200_000)));
      await attempt("an array", new TextEncoder().encode("[1]"));
      await attempt("a key twice", new TextEncoder().encode('{"a":1,"a":2}'));
      await attempt("many values", new TextEncoder().encode(`{"a":[${"[],".repeat(5 << 20)}0]}`));
      await attempt("nothing", new Uint8Array());
      assert.equal(bounds.opened, opened, name);
      for (let i = 0; i < 60; i++) {
        await attempt(`seed ${SEED} case ${i}`, flipped(whole, whole.length, 1 + i % 3, random));
      }
      await Deno.writeFile(`${folder}/${name}`, whole);
    }
  });
});

Deno.test("openModel() survives values of every kind in config.json", async () => {
  const { config, tensors } = llamaFolder();
  const full: Record<string, unknown> = {
    ...config,
    head_dim: 16,
    rope_scaling: { rope_type: "yarn", factor: 2, original_max_position_embeddings: 32 },
    layer_types: ["full_attention"],
    sliding_window: null,
  };
  const values = [
    null,
    0,
    -1,
    0.5,
    2 ** 31,
    1e308,
    "x",
    "",
    [],
    [1],
    {},
    { a: {} },
    true,
    "__proto__",
  ];
  const bounds = new Bounds();
  const files = { "config.json": "", "model.safetensors": writeSafetensors(tensors) };
  await withFiles(files, async (folder) => {
    for (const [key, old] of Object.entries(full)) {
      for (const value of [...values, { ...Object(old), factor: -1 }, undefined]) {
        await Deno.writeTextFile(
          `${folder}/config.json`,
          JSON.stringify({ ...full, [key]: value }),
        );
        await bounds.run(folder, () => `${key} = ${JSON.stringify(value)}`);
      }
    }
  });
  assert.ok(bounds.refused > 120, `${bounds.refused} refused, ${bounds.opened} opened`);
});
