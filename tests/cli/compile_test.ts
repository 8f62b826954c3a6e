import manifest from "../../deno.json" with { type: "json" };
import { ASSET_PATHS, WORKERS } from "../../src/assets.ts";
import { assert } from "std-testing";
import { exists } from "./_sandbox.ts";

const ROOT = new URL("../../", import.meta.url);

/** Modules that open files which a user names, or the assets: nothing else may open files. */
const FILE_READERS = [
  "src/assets.ts",
  "src/cli/inputs.ts",
  "src/cli/key_file.ts",
  "src/model/",
  // What lies beside a model.
  "src/butler/side_file.ts",
  // What commands write as a whole: predictors, calibrations, checkpoints, figures.
  "src/whole_file.ts",
  // The file that `calibrate` writes.
  "src/butler/calibration/",
  // What `train` writes: a predictor, what the model computed, where it stands.
  "src/butler/predictor/",
  "src/train/",
  // Which version is measured, and figures of an evaluation.
  "src/report/commit.ts",
  "src/eval/",
  "src/cli/commands/",
  // Rows below the device: folders that the user names.
  "src/kv/store/file_ops.ts",
];

function* sources(folder: string): Generator<{ path: string; code: string }> {
  for (const entry of Deno.readDirSync(new URL(folder, ROOT))) {
    const path = `${folder}${entry.name}`;
    if (entry.isDirectory) {
      // What is installed there is not ours.
      if (entry.name !== "node_modules") yield* sources(`${path}/`);
    } else if (entry.name.endsWith(".ts")) {
      const text = Deno.readTextFileSync(new URL(path, ROOT));
      // Comments may name what code may not do.
      yield { path, code: text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "") };
    }
  }
}

const PROGRAM = [
  ...sources("src/"),
  { path: "main.ts", code: Deno.readTextFileSync(new URL("main.ts", ROOT)) },
];

Deno.test("the compile list holds every worker and every asset folder", () => {
  const workers = Object.values(WORKERS).map((url) => url.href.slice(ROOT.href.length));
  assert.deepEqual([...manifest.compile.include].sort(), [...workers, ...ASSET_PATHS].sort());
  for (const path of manifest.compile.include) {
    assert.ok(exists(new URL(path, ROOT)), path);
  }
});

Deno.test("every worker of the program is in the table of workers", () => {
  let found = 0;
  for (const { path, code } of PROGRAM) {
    for (const [, url] of code.matchAll(/new Worker\(\s*([^,)]*)/g)) {
      const name = url?.match(/^WORKERS\.(\w+)$/)?.[1];
      assert.ok(name !== undefined && name in WORKERS, `${path}: new Worker(${url}`);
      found += 1;
    }
  }
  assert.equal(found, Object.keys(WORKERS).length);
});

Deno.test("only the assets module asks where the program lies", () => {
  const asking = PROGRAM.filter(({ code }) =>
    /import\.meta\.(url|dirname|filename|resolve)/.test(code)
  );
  assert.deepEqual(asking.map(({ path }) => path), ["src/assets.ts"]);
});

Deno.test("only known modules open files", () => {
  const opening = /Deno\.(open|readFile|readTextFile|readDir|lstat|stat|create)(Sync)?\b|node:fs/;
  for (const { path, code } of PROGRAM) {
    if (!opening.test(code)) continue;
    assert.ok(FILE_READERS.some((known) => path.startsWith(known)), `${path} opens files`);
  }
});

Deno.test("every import can be seen without running the program", () => {
  // The other engine that is measured against is not part of the program: it has its own manifest.
  const benches = [...sources("bench/")].filter(({ path }) => !path.startsWith("bench/llama_cpp/"));
  for (const { path, code } of [...PROGRAM, ...benches]) {
    for (const [call, specifier] of code.matchAll(/(?<![.\w])import\(\s*([^)]*)\)/g)) {
      assert.match(specifier ?? "", /^"[^"]+"$/, `${path}: ${call}`);
    }
  }
});

Deno.test("what is compiled has the permissions of serve and the flags of the project", () => {
  assert.equal(manifest.compile.permissions, "serve");
  assert.match(
    manifest.tasks.compile.command,
    /^deno compile --no-prompt --v8-flags=\S+ -P .*main\.ts$/,
  );
  assert.deepEqual(manifest.unstable, ["webgpu", "no-legacy-abort", "npm-lazy-caching"]);
});
