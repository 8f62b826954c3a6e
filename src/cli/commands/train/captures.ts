/** What the model computes over the windows of text, kept in files. @module */
import type { EngineParts } from "../../../engine/create.ts";
import { DEFAULT_CACHE } from "../../../engine/types.ts";
import { capture, type CaptureWindow } from "../../../train/capture.ts";
import { CaptureFile } from "../../../train/capture_file.ts";
import type { TrainSettings } from "../../../train/settings.ts";
import { MisfitError } from "../../command.ts";
import { modelPath } from "../../model_flags.ts";
import { timedBar } from "../../progress.ts";
import type { TrainJob } from "./job.ts";

/** Tokens of a prefill chunk: fixed, so that the same text gives the same bytes. */
const CHUNK = 256;

/** All captures, whole. */
export interface Captured extends Disposable {
  readonly train: CaptureFile;
  readonly heldOut: CaptureFile;
  readonly table: CaptureFile;
}

/**
 * Opens the captures of a cache folder and makes what they lack.
 *
 * @throws {MisfitError} If memory does not allow a window.
 * @throws {TrainError} If a file cannot be written or is of other windows.
 */
export async function captureAll(job: TrainJob, cache: string): Promise<Captured> {
  const { io, shape, samples } = job;
  const files: CaptureFile[] = [];
  const openFile = async (name: string, windows: readonly CaptureWindow[]) => {
    const first = windows[0]!;
    const file = CaptureFile.open(`${cache}/${name}.capture`, {
      shape: {
        model: shape.model,
        stride: shape.stride,
        tokens: first.ids.length,
        rows: first.positions.length,
      },
      content: await digestOf(windows),
    });
    files.push(file);
    for (let i = 0; i < file.windows; i++) {
      if (file.check(i)) continue;
      io.stderr(`note: window ${i} of ${file.path} is damaged: it is made again\n`);
      file.truncate(i);
    }
    return file;
  };
  try {
    const train = await openFile("train", samples.train);
    const heldOut = await openFile("held_out", samples.heldOut);
    const table = samples.table === samples.heldOut
      ? heldOut
      : await openFile("table", samples.table);
    const wanted = new Map([
      [heldOut, samples.heldOut],
      [table, samples.table],
      [train, samples.train],
    ]);
    const lacking = [...wanted]
      .reduce((sum, [file, windows]) => sum + windows.length - file.windows, 0);
    if (lacking > 0) {
      const parts = await openEngine(job);
      const bar = timedBar(io, "Running the model", lacking);
      try {
        let done = 0;
        const onProgress = () => bar.update(++done);
        for (const [file, windows] of wanted) {
          await capture({ parts, file, windows, chunk: parts.info.prefillChunk, onProgress });
        }
      } finally {
        bar.stop();
        parts.dispose();
      }
    }
    return {
      train,
      heldOut,
      table,
      [Symbol.dispose]: () => files.forEach((file) => file[Symbol.dispose]()),
    };
  } catch (error) {
    files.forEach((file) => file[Symbol.dispose]());
    throw error;
  }
}

/** Context of the engine: a token beside a window, as warming up takes a short step of both kinds. */
export function contextOf({ tokens, heldOutTokens, tableTokens }: TrainSettings): number {
  return Math.max(tokens, heldOutTokens, tableTokens) + 1;
}

/**
 * An engine with room for a window.
 *
 * @throws {MisfitError} If memory does not allow one.
 */
export async function openEngine(
  { flags, open, kernels, settings }: TrainJob,
): Promise<EngineParts> {
  const longest = contextOf(settings) - 1;
  const parts = await open(
    {
      modelPath: modelPath(flags),
      contextLength: contextOf(settings),
      maxSequences: 1,
      kvType: "f32",
      prefillChunk: Math.min(CHUNK, longest),
      ...DEFAULT_CACHE,
      kernelOverrides: Object.fromEntries(flags.kernel),
    },
    () => {},
    { kernels },
  );
  if (parts.info.contextLength >= longest) return parts;
  parts.dispose();
  throw new MisfitError(
    `a window has ${longest} tokens, but memory allows ${parts.info.contextLength}: take fewer ` +
      "with --tokens",
  );
}

async function digestOf(windows: readonly CaptureWindow[]): Promise<string> {
  const text = JSON.stringify(windows.map(({ ids, positions }) => [ids, positions]));
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return new Uint8Array(bytes).toHex();
}
