/** Starts this very program in a process of its own. @module */
import { PROGRAM_FILES } from "../assets.ts";
import { MisfitError } from "./command.ts";
import { type ChildProcess, SUPERVISED } from "./supervisor.ts";

/**
 * Starts the program with other arguments and the permissions of a named set; output goes where this
 * process's goes. Its standard input ends with this process, however that ends.
 *
 * @throws {MisfitError} If this process may not start others.
 */
export function startSelf(args: readonly string[], permissions: string): ChildProcess {
  const { main, config } = PROGRAM_FILES;
  const runtime = ["run", "-q", "--no-prompt", `-P=${permissions}`, "--config", config, main];
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command(Deno.execPath(), {
      args: [...(Deno.build.standalone ? [] : runtime), ...args],
      env: { [SUPERVISED]: "1" },
      stdin: "piped",
      stdout: "inherit",
      stderr: "inherit",
    }).spawn();
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotCapable)) throw cause;
    throw new MisfitError(
      "--supervise starts processes, which this one may not: say ./run serve --supervise, " +
        "or give it --allow-run",
      { cause },
    );
  }
  // Never written to, and kept for as long as the process is looked after.
  const input = child.stdin.getWriter();
  return {
    pid: child.pid,
    ended: child.status.then(({ code, signal }) => {
      input.close().catch(() => {});
      return { code, signal };
    }),
    signal(name) {
      try {
        child.kill(name);
      } catch {
        // It has ended meanwhile.
      }
    },
  };
}
