/** Runs commands that make an engine in their own isolate. @module */
import { runCommand } from "../../src/cli/cli.ts";
import type { AnyCommand } from "../../src/cli/command.ts";
import { createEngineParts, openKernels } from "../../src/engine/create.ts";
import { FakeIo } from "./_io.ts";
import { assert } from "std-testing";

/** Runs a command whose device is gone afterwards. */
export async function runWith(
  make: (open: typeof createEngineParts) => AnyCommand,
  line: string,
): Promise<FakeIo> {
  const kernels = await openKernels({});
  const io = new FakeIo();
  try {
    const made = make((options, progress, system) =>
      createEngineParts(options, progress, system ?? { kernels })
    );
    assert.equal(await runCommand(made, line.split(" "), io), 0, io.err);
  } finally {
    kernels.device.destroy();
  }
  return io;
}
