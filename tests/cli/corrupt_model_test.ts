/** `serve` told to serve files that are no sound models. */
import { assert, memoryInUse } from "std-testing";
import { runCommand } from "../../src/cli/cli.ts";
import { serveCommand } from "../../src/cli/commands/serve.ts";
import { openTextSide } from "../../src/cli/text_side.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { ggufParts, withFiles, writeGguf } from "../_model_files.ts";
import { FakeIo } from "./_io.ts";

/** Longest time that a file may take. */
const DEADLINE_MS = 1000;
/** Most memory that it may take. */
const MAX_EXTRA_BYTES = 64 << 20;

const { bytes, longFields, shortFields, sections } = writeGguf(
  ggufParts().metadata,
  ggufParts().tensors,
);

/** Every section cut short, and every count, length, dimension and offset with a value that lies. */
function* corrupt(): Generator<[what: string, bytes: Uint8Array<ArrayBuffer>]> {
  for (const end of [0, 3, ...sections]) {
    if (end > 0) yield [`cut one byte before ${end}`, bytes.slice(0, end - 1)];
  }
  for (const at of longFields) {
    for (const value of [1n << 63n, (1n << 64n) - 1n]) {
      const copy = bytes.slice();
      new DataView(copy.buffer).setBigUint64(at, value, true);
      yield [`64-bit field at ${at} set to ${value}`, copy];
    }
  }
  for (const at of shortFields) {
    const copy = bytes.slice();
    new DataView(copy.buffer).setUint32(at, 0xffffffff, true);
    yield [`32-bit field at ${at} set to ${0xffffffff}`, copy];
  }
}

Deno.test("check 13: serve refuses every corrupt GGUF file by name, fast and cheaply", async () => {
  const command = serveCommand(
    openTextSide,
    () => Promise.reject(new Error("a device was opened for it")),
  );
  let numCases = 0;
  await withFiles({}, async (folder) => {
    const path = `${folder}/m.gguf`;
    for (const [what, content] of corrupt()) {
      numCases++;
      await Deno.writeFile(path, content);
      const io = new FakeIo();
      const before = memoryInUse();
      const began = performance.now();
      const error = await runCommand(command, ["--port", "0", "--model", path], io).then(
        () => null,
        (error: unknown) => error,
      );
      const tookMs = performance.now() - began;
      assert.ok(error instanceof ModelFileError, `${what}: ${error}`);
      assert.ok(error.message.includes("m.gguf"), error.message);
      assert.ok(tookMs < DEADLINE_MS, `${what}: ${tookMs} ms`);
      assert.ok(memoryInUse() - before < MAX_EXTRA_BYTES, what);
      assert.equal(io.out, "");
    }
  });
  assert.ok(numCases >= 200, `${numCases} cases`);
});
