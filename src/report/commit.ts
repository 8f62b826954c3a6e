/** Which version of the program is measured. @module */

const GIT = new URL("../../.git/", import.meta.url);

let known: string | undefined;

/** First twelve digits of the commit that is checked out, or `unknown` outside a repository. */
export function commit(): string {
  known ??= readCommit();
  return known;
}

function readCommit(): string {
  const head = read("HEAD");
  const ref = head?.match(/^ref: (\S+)/)?.[1];
  if (ref === undefined) return head?.trim().slice(0, 12) ?? "unknown";
  const packed = read("packed-refs")?.split("\n").find((line) => line.endsWith(` ${ref}`));
  return (read(ref) ?? packed)?.trim().slice(0, 12) ?? "unknown";
}

function read(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(new URL(path, GIT));
  } catch {
    return undefined;
  }
}
