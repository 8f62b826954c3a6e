/** Short digests: by these figures tell what they were measured on and with. @module */

/** First digits of the SHA-256 of a file; null if it cannot be read. */
export async function digestOfFile(path: string): Promise<string | null> {
  try {
    return await shortDigest(await Deno.readFile(path));
  } catch {
    return null;
  }
}

/** First digits of the SHA-256 of a text. */
export async function digestOfText(text: string): Promise<string> {
  return await shortDigest(new TextEncoder().encode(text));
}

async function shortDigest(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return new Uint8Array(digest).toHex().slice(0, 12);
}
