/** The file of keys that `--api-key-file` names. @module */
import { UsageError } from "./flags.ts";
import { readTextFile } from "./inputs.ts";

/** Visible ASCII: what a header can carry. */
export const KEY_PATTERN = /^[\x21-\x7e]+$/;

/**
 * Reads the keys, one a line; empty lines and those that begin with `#` count for nothing.
 *
 * @throws {MisfitError} If the file cannot be read.
 * @throws {UsageError} If it has no key, or one that no header can carry.
 */
export function keysOfFile(path: string): string[] {
  const lines = readTextFile(path, "--api-key-file").split(/\r?\n/).map((line) => line.trim());
  const keys = lines.filter((line) => line !== "" && !line.startsWith("#"));
  if (keys.length === 0) throw new UsageError(`--api-key-file: ${path} has no keys`);
  for (const [index, key] of keys.entries()) {
    // A key is not shown, also not one that is wrong.
    if (!KEY_PATTERN.test(key)) {
      throw new UsageError(
        `--api-key-file: key ${index + 1} of ${path} has blanks or other characters that no ` +
          "header can carry",
      );
    }
  }
  return keys;
}

/** Rights of those who are neither the owner nor of the group. */
const OTHERS_READ = 0o004;
const OTHERS_WRITE = 0o002;

/**
 * What a person should know of a file of keys that is open to every user of the machine; null where
 * it is not, or where nobody can tell (standard input, a pipe, Windows). It is no error: containers
 * mount secrets for a user that the host does not have.
 */
export function keyFileWarning(path: string): string | null {
  let info: Deno.FileInfo;
  try {
    info = Deno.statSync(path);
  } catch {
    return null;
  }
  if (!info.isFile || info.mode === null) return null;
  const mode = info.mode & 0o777;
  const can = [
    ...(mode & OTHERS_READ ? ["read"] : []),
    ...(mode & OTHERS_WRITE ? ["change"] : []),
  ];
  if (can.length === 0) return null;
  return `--api-key-file: every user of this machine can ${
    can.join(" and ")
  } ${path} (its mode is ` +
    `${mode.toString(8).padStart(4, "0")}): chmod 600 keeps it to its owner`;
}
