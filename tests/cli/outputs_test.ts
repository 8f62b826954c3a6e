import { assert } from "std-testing";
import { CommandError, MisfitError } from "../../src/cli/command.ts";
import { checkOutputs } from "../../src/cli/outputs.ts";

Deno.test("an output that cannot be written is a mistake, on a full disk only for now", async () => {
  const folder = await Deno.makeTempDir();
  const write = Deno.writeFileSync;
  try {
    checkOutputs({ out: `${folder}/a`, svg: null });
    assert.throws(() => checkOutputs({ out: folder }), MisfitError);
    assert.throws(() => checkOutputs({ svg: `${folder}/no/a` }), MisfitError);
    Deno.writeFileSync = () => {
      throw Object.assign(new Error("No space left on device (os error 28)"), { code: "ENOSPC" });
    };
    assert.throws(
      () => checkOutputs({ out: `${folder}/a` }),
      (error) => error instanceof CommandError && !(error instanceof MisfitError),
    );
  } finally {
    Deno.writeFileSync = write;
    await Deno.remove(folder, { recursive: true });
  }
});
