import manifest from "../../deno.json" with { type: "json" };
import { assert } from "std-testing";
import { COMMANDS } from "../../src/cli/cli.ts";

const RUN = Deno.readTextFileSync(new URL("../../run", import.meta.url));

/** What V8 is told where it runs for long. */
const V8_FLAGS = RUN.match(/^ +DENO_V8_FLAGS=([^$\s]+)\$/m)?.[1];

/** The words of a variable of the run script. */
function words(name: string): string[] {
  return RUN.match(new RegExp(`^${name}='([^']*)'`, "m"))?.[1]?.split(" ") ?? [];
}

Deno.test("./run, deno task and the program know the same commands", () => {
  const names = COMMANDS.map(({ name }) => name);
  assert.deepEqual(words("commands"), names);
  assert.deepEqual(Object.keys(manifest.tasks), [...names, ...words("tasks")]);
});

Deno.test("the tasks start the commands as ./run does", () => {
  for (const { name } of COMMANDS) {
    const set = name === "serve" || name === "bench" ? name : "cli";
    const v8 = set === "cli" ? "" : `--v8-flags=${V8_FLAGS} `;
    const task = manifest.tasks[name as keyof typeof manifest.tasks];
    assert.equal(
      task.command,
      "TOKENBUTLER_STARTED_AS='deno task' TOKENBUTLER_CWD=$INIT_CWD " +
        `deno run -q --no-prompt ${v8}-P=${set} main.ts ${name}`,
    );
  }
  assert.match(RUN, /^set_name=cli\ncase \$1 in\n {2}serve \| bench\)\n {4}set_name=\$1\n/m);
  assert.match(RUN, /exec "\$deno" run -q --no-prompt "-P=\$set_name" /);
});

Deno.test("every command has the least permissions that it needs", () => {
  const { cli, serve, bench, supervise } = manifest.permissions;
  const least = { read: true, env: ["TOKENBUTLER_*"] };
  // Rows that memory has no room for, prefixes and calibration files go where a user says. How much
  // memory rows may have follows from how much there is.
  const engine = { ...least, write: true, sys: ["systemMemoryInfo"] };
  assert.deepEqual(cli, engine);
  // `bench http` is its own server and client.
  assert.deepEqual(bench, { ...engine, net: ["127.0.0.1"] });
  assert.deepEqual(serve, { ...engine, net: true });
  // Who starts processes neither listens nor writes.
  assert.deepEqual(supervise, { ...least, run: true });
  const everything = /(^|\s)(-A|--allow-all|--allow-run|--allow-ffi)(\s|=|$)/;
  for (const task of Object.values(manifest.tasks)) assert.doesNotMatch(task.command, everything);
  assert.doesNotMatch(RUN, everything);
});

Deno.test("every dependency is pinned to one version", () => {
  for (const [name, target] of Object.entries(manifest.imports)) {
    assert.match(target, /^(\.\/|npm:(@[\w.-]+\/)?[\w.-]+@\d+\.\d+\.\d+$)/, name);
  }
});
