import { assert } from "std-testing";
import { keyFileWarning, keysOfFile } from "../../src/cli/key_file.ts";

Deno.test("keyFileWarning() warns of files that every user can read or change, and of no others", async () => {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/keys`;
  await Deno.writeTextFile(path, "a\n# not a key\n\nb\n");
  const of = (mode: number) => {
    Deno.chmodSync(path, mode);
    return keyFileWarning(path);
  };
  try {
    for (const mode of [0o600, 0o400, 0o440, 0o660]) assert.equal(of(mode), null, `${mode}`);
    assert.equal(
      of(0o644),
      `--api-key-file: every user of this machine can read ${path} (its mode is 0644): chmod 600 ` +
        "keeps it to its owner",
    );
    assert.match(of(0o666) ?? "", /can read and change .* 0666/);
    assert.match(of(0o602) ?? "", /can change .* 0602/);
    assert.doesNotMatch(of(0o644) ?? "", /\ba\n|\bb\n/);
    assert.deepEqual(keysOfFile(path), ["a", "b"]);
    assert.equal(keyFileWarning(`${folder}/none`), null);
    assert.equal(keyFileWarning(folder), null);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
