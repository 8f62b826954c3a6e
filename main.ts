/** The program. Everything it does is in `src/cli`. @module */
import { runCli } from "./src/cli/cli.ts";
import { processIo } from "./src/cli/io.ts";

if (import.meta.main) {
  // `deno task` starts its commands in the project's folder; the tasks say where the caller was.
  const callersFolder = Deno.env.get("TOKENBUTLER_CWD");
  if (callersFolder !== undefined && callersFolder !== "") Deno.chdir(callersFolder);
  Deno.exit(await runCli(Deno.args, processIo()));
}
