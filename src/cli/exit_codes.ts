/**
 * Which exit code goes with which error. 2: what was asked for cannot work as asked, so that whoever
 * looks after the process need not try again; 1: it failed while running, or for a reason that may
 * pass.
 *
 * Errors of the engine come from a worker as data and have lost their class: name and code count.
 *
 * @module
 */
import { MisfitError } from "./command.ts";
import { UsageError } from "./flags.ts";
import { EXIT } from "./io.ts";

/**
 * Names of errors about what was asked for, and those of their codes that are about something else:
 * a disk that is full, a device that is away or that others use.
 */
const MISFITS: ReadonlyMap<string, readonly string[]> = new Map([
  // The program was started without a right that the command needs.
  ["NotCapable", []],
  ["KvSettingsError", []],
  ["ModelFileError", []],
  ["CalibrationError", ["bad_keys", "not_writable"]],
  ["PredictorError", ["not_writable"]],
  ["StoreFolderError", ["full"]],
  ["TrainError", ["diverged", "not_writable"]],
  ["DeviceError", ["failed", "lost", "no_adapter", "out_of_memory"]],
]);

/** The exit code of a command that an error ended. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError || error instanceof MisfitError) return EXIT.usage;
  if (!(error instanceof Error)) return EXIT.failure;
  const passing = MISFITS.get(error.name);
  if (passing === undefined) return EXIT.failure;
  const { code } = error as { code?: unknown };
  return typeof code === "string" && passing.includes(code) ? EXIT.failure : EXIT.usage;
}
