/** Which version of the program is measured. @module */

import { PROGRAM_ROOT as ROOT } from "../assets.ts";

let known: string | undefined;

/** First twelve digits of the commit that is checked out, or `unknown` outside a repository. */
export function commit(): string {
  known ??= readCommit();
  return known;
}

function readCommit(): string {
  // A further work tree has a file there that names its folder, and shares the references.
  const own = read(".git", ROOT)?.match(/^gitdir: (.+)/)?.[1];
  const git = own === undefined ? new URL(".git/", ROOT) : folder(own, ROOT);
  const shared = own === undefined ? git : folder(read("commondir", git)?.trim() ?? ".", git);
  const head = read("HEAD", git);
  const ref = head?.match(/^ref: (\S+)/)?.[1];
  if (ref === undefined) return head?.trim().slice(0, 12) ?? "unknown";
  const packed = read("packed-refs", shared)?.split("\n").find((line) => line.endsWith(` ${ref}`));
  return (read(ref, shared) ?? packed)?.trim().slice(0, 12) ?? "unknown";
}

function folder(path: string, base: URL): URL {
  return new URL(`${path}/`, base);
}

function read(path: string, base: URL): string | undefined {
  try {
    return Deno.readTextFileSync(new URL(path, base));
  } catch {
    return undefined;
  }
}
