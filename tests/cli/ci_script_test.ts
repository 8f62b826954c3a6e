import { assert } from "std-testing";

const SCRIPT = new URL("../../.ci/run", import.meta.url);

/** Runs the CI script over a made-up `./run` whose tasks print and exit as told. */
async function ci(tasks: Readonly<Record<string, { code: number; output?: string }>>) {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.mkdir(`${folder}/.ci`);
    await Deno.copyFile(SCRIPT, `${folder}/.ci/run`);
    const cases = Object.entries(tasks).map(([name, { code, output = "" }]) =>
      `${name}) cat <<'END'\n${output}\nEND\nexit ${code} ;;`
    );
    await Deno.writeTextFile(
      `${folder}/run`,
      `#!/bin/sh\ncase $1 in\n${cases.join("\n")}\n*) exit 0 ;;\nesac\n`,
    );
    await Deno.chmod(`${folder}/run`, 0o755);
    const { code, stdout } = await new Deno.Command("bash", {
      args: [`${folder}/.ci/run`],
      stdin: "null",
    }).output();
    const lines = new TextDecoder().decode(stdout).trimEnd().split("\n");
    return { code, last: lines.at(-1) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const PASSED = "ok | 120 passed (4 steps) | 0 failed | 1 ignored (12s)";
const FAILED = "FAILED | 118 passed (4 steps) | 2 failed (12s)";

Deno.test(".ci/run counts checks and tests and ends with one plain line", async () => {
  const cases: [Parameters<typeof ci>[0], number, string][] = [
    [{ test: { code: 0, output: PASSED } }, 0, "123 passed, 0 failed"],
    [{ test: { code: 1, output: FAILED } }, 1, "121 passed, 2 failed"],
    [{ test: { code: 0, output: PASSED }, lint: { code: 1 } }, 1, "122 passed, 1 failed"],
    [
      { test: { code: 0, output: PASSED }, fmt: { code: 1 }, check: { code: 1 } },
      1,
      "121 passed, 2 failed",
    ],
    // The type check of the tests failed, or nothing ran at all.
    [{ test: { code: 1, output: "error: Type checking failed." } }, 1, "3 passed, 1 failed"],
    [{ test: { code: 0, output: "nothing to see" } }, 1, "3 passed, 1 failed"],
    // All tests passed, and then something else went wrong.
    [{ test: { code: 1, output: PASSED } }, 1, "123 passed, 1 failed"],
  ];
  for (const [tasks, code, last] of cases) {
    assert.deepEqual(await ci(tasks), { code, last });
  }
});
