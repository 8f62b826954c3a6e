import { assert } from "std-testing";
import { systemFiles } from "../../../src/kv/store/file_ops.ts";
import { whyNoFolder } from "../../../src/kv/store/spill_folder.ts";
import { MemoryFiles } from "./_memory_files.ts";
import { makePart, makeStore, SHAPE, SIZES } from "./_store.ts";

const NAME = `tokenbutler-1-${"0123456789abcdef".repeat(2)}`;
const BLOCK = `${"f".repeat(64)}.kv`;
const MARKER = "TokenButler: spilled blocks of a KV cache.\n";

async function withFolder(action: (dir: string) => void): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    action(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function names(path: string): string[] {
  return [...Deno.readDirSync(path)].map(({ name }) => name).sort();
}

Deno.test("the store works on the file system, and leaves nothing behind", async () => {
  await withFolder((dir) => {
    const { store, warnings } = makeStore(1, 200, { dir: `${dir}/a/b`, prefixDir: `${dir}/p` });
    const sequence = store.open();
    for (let index = 0; index < 80; index++) {
      for (let layer = 0; layer < SHAPE.numLayers; layer++) {
        sequence.putPart(index, layer, makePart(index * 10 + layer));
      }
    }
    const out = new Uint8Array(80 * SIZES.part);
    sequence.readParts(0, 80, 1, out, 0);
    for (let index = 0; index < 80; index++) {
      assert.deepEqual(
        out.slice(index * SIZES.part, (index + 1) * SIZES.part),
        makePart(index * 10 + 1),
      );
    }
    const keys = store.prefixKeys(Array.from({ length: 64 }, (_, id) => id));
    store.offerPrefix(keys[0]!, sequence, 0, Uint8Array.of(8));
    store.offerPrefix(keys[1]!, sequence, 1);
    const [folder] = names(`${dir}/a/b`);
    assert.match(folder!, /^tokenbutler-\d+-[0-9a-f]{32}$/);
    assert.equal(names(`${dir}/a/b/${folder}`).length, 80);
    if (Deno.build.os !== "windows") {
      assert.equal(Deno.statSync(`${dir}/a/b/${folder}`).mode! & 0o777, 0o700);
      const [file] = names(`${dir}/a/b/${folder}`);
      assert.equal(Deno.statSync(`${dir}/a/b/${folder}/${file}`).mode! & 0o777, 0o600);
    }
    store[Symbol.dispose]();
    assert.deepEqual(names(`${dir}/a/b`), []);
    const next = makeStore(2, null, { prefixDir: `${dir}/p` });
    const adopted = next.store.adoptPrefix(keys);
    assert.equal(adopted.numBlocks, 2);
    adopted.readPart(1, 2, out, 0);
    assert.deepEqual(out.slice(0, SIZES.part), makePart(12));
    assert.deepEqual(adopted.extras(0), Uint8Array.of(8));
    assert.deepEqual([...warnings, ...next.warnings], []);
  });
});

Deno.test("what dead processes left is cleared away, and nothing else", async () => {
  await withFolder((dir) => {
    const make = (name: string, files: Record<string, string>) => {
      Deno.mkdirSync(`${dir}/${name}`);
      for (const [file, text] of Object.entries(files)) {
        Deno.writeTextFileSync(`${dir}/${name}/${file}`, text);
      }
    };
    const other = (digit: string) => NAME.slice(0, -1) + digit;
    make(NAME, { "tokenbutler.marker": MARKER, [BLOCK]: "x" });
    make(other("1"), { [BLOCK]: "x" });
    make(other("2"), { "tokenbutler.marker": "something else", [BLOCK]: "x" });
    make(other("3"), { "tokenbutler.marker": MARKER, [BLOCK]: "x", "notes.txt": "mine" });
    make("tokenbutler-data", { "tokenbutler.marker": MARKER, [BLOCK]: "x" });
    make("target", { "tokenbutler.marker": MARKER, [BLOCK]: "x" });
    Deno.symlinkSync(`${dir}/target`, `${dir}/${other("4")}`);
    make(other("5"), { "tokenbutler.marker": MARKER, [BLOCK]: "x" });
    using alive = systemFiles.lock(`${dir}/${other("5")}/tokenbutler.marker`);
    assert.notEqual(alive, null);
    const living = makeStore(0, 4, { dir }).store;
    living.open().putPart(0, 0, makePart(1));
    const { store } = makeStore(0, 4, { dir });
    living.checkInvariants();
    store[Symbol.dispose]();
    assert.equal(names(dir).includes(NAME), false);
    assert.deepEqual(names(`${dir}/${other("1")}`), [BLOCK]);
    assert.equal(names(`${dir}/${other("2")}`).length, 2);
    assert.deepEqual(names(`${dir}/${other("3")}`), ["notes.txt"]);
    assert.equal(names(`${dir}/tokenbutler-data`).length, 2);
    assert.equal(names(`${dir}/target`).length, 2);
    assert.equal(names(`${dir}/${other("5")}`).length, 2);
    living[Symbol.dispose]();
    assert.equal(names(dir).length, 7);
  });
});

Deno.test("a killed process' folder goes at the next start", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const url = new URL("../../../src/kv/store/row_store.ts", import.meta.url);
    const code = `import { RowStore } from ${JSON.stringify(url.href)};
      const store = new RowStore({
        shape: { numLayers: 1, numKvHeads: 1, headDim: 2, bytesPerValue: 2 }, fingerprint: "",
        hostBytes: 0, disk: { dir: ${JSON.stringify(dir)}, bytes: 2 ** 20 }, prefixDir: null,
        onWarning: console.error });
      store.open().putPart(0, 0, new Uint8Array(store.partBytes));
      Deno.exit(7);`;
    const child = new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-config", "--quiet", code],
      stderr: "inherit",
    });
    assert.equal((await child.output()).code, 7);
    const [left] = names(dir);
    assert.equal(names(`${dir}/${left}`).length, 2);
    const { store } = makeStore(0, 1, { dir });
    assert.equal(names(dir).includes(left!), false);
    store[Symbol.dispose]();
    assert.deepEqual(names(dir), []);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a folder that cannot be used is an error at once that names the flag", () => {
  const files = new MemoryFiles();
  files.faults.failing.add("makeFolder");
  const name = "StoreFolderError";
  const file = Object.assign(new Error("EEXIST: file already exists, mkdir '/p'"), {
    code: "EEXIST",
  });
  assert.equal(whyNoFolder(file), "there is a file in its place");
  // Deno says: run again with --allow-all.
  const denied = new Deno.errors.NotCapable("run again with the --allow-all flag");
  assert.doesNotMatch(whyNoFolder(denied), /allow-all/);
  const spill = { name, message: /\/spill .*EIO.*--kv-disk/s };
  assert.throws(() => makeStore(0, 1, { files }), spill);
  const prefix = { name, message: /\/p .*EIO.*--prefix-dir/s };
  assert.throws(() => makeStore(1, null, { files, prefixDir: "/p" }), prefix);
});
