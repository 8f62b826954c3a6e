/** Runs what is a task of the project and no command of the program: `fuzz` and `soak`. @module */
import { reportError, runCommand, STARTED_AS } from "../src/cli/cli.ts";
import type { AnyCommand } from "../src/cli/command.ts";
import { UsageError } from "../src/cli/flags.ts";
import { type CliIo, processIo } from "../src/cli/io.ts";

/** Runs a task with this process's arguments, and ends the process, with whatever still runs in it. */
export async function runTask(command: AnyCommand): Promise<void> {
  Deno.exit(await taskCode(command, Deno.args, processIo()));
}

/** Runs a task and answers its exit code. Help and hints name what starts a task. */
export async function taskCode(
  command: AnyCommand,
  args: readonly string[],
  io: CliIo,
): Promise<number> {
  const env = (name: string) => io.env(name) || (name === STARTED_AS ? "deno task" : undefined);
  const own: CliIo = {
    stdout: (text) => io.stdout(text),
    stderr: (text) => io.stderr(text),
    stderrIsTerminal: io.stderrIsTerminal,
    stdinIsTerminal: io.stdinIsTerminal,
    env,
    stdinLines: () => io.stdinLines(),
    onInterrupt: (handler) => io.onInterrupt(handler),
    args: io.args,
    exit: (code) => io.exit(code),
  };
  try {
    return await runCommand(command, args, own);
  } catch (error) {
    // A failed check is no defect of the command line: its stack says where it was found.
    if (!(error instanceof UsageError)) console.error(error);
    return reportError(error, command.name, own);
  }
}
