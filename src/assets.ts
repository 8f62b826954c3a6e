/**
 * The one place that knows where the program's own files are: shaders, the default model, worker
 * modules. It works from a file tree and from the file system that `deno compile` embeds, because
 * both resolve against this module's own location.
 *
 * @module
 */

/** Worker modules, by name. Every `new Worker` of the program takes its URL from here. */
export const WORKERS = {
  engine: new URL("./engine/worker.ts", import.meta.url),
  encode: new URL("./tokenizer/encode_worker.ts", import.meta.url),
  template: new URL("./tokenizer/template_worker.ts", import.meta.url),
} as const;

/** Files and folders, relative to the project root, that are opened at run time. */
export const ASSET_PATHS = ["shaders", "weights"] as const;

/** Where the program lies. Its assets are read through the functions below. */
export const PROGRAM_ROOT = new URL("../", import.meta.url);

/** Absolute paths of what a runtime starts the program from. */
export const PROGRAM_FILES = {
  main: decodeURIComponent(new URL("main.ts", PROGRAM_ROOT).pathname),
  config: decodeURIComponent(new URL("deno.json", PROGRAM_ROOT).pathname),
} as const;

/** Absolute path of a file of the program, given relative to the project root. */
export function assetPath(relative: string): string {
  const url = new URL(relative, PROGRAM_ROOT);
  if (!ASSET_PATHS.some((top) => relative === top || relative.startsWith(`${top}/`))) {
    throw new RangeError(`asset ${relative} is outside the listed asset folders`);
  }
  return decodeURIComponent(url.pathname);
}

/** Text of a shader, given relative to `shaders/`. */
export function readShader(relative: string): string {
  return Deno.readTextFileSync(assetPath(`shaders/${relative}`));
}

/** The model that is served when none is named. */
export const DEFAULT_MODEL = {
  path: "weights/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
  sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
  servedName: "smollm2-135m-instruct",
} as const;
