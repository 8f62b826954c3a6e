import { assert } from "std-testing";
import { progressLines } from "../../src/cli/progress.ts";

Deno.test("where no bar can be, long work says once a minute how far it is", () => {
  const lines: string[] = [];
  let minute = 0;
  const bar = progressLines(
    { stderr: (line) => lines.push(line) },
    "Measuring",
    100,
    () => minute * 60_000,
  );
  // An earlier run did 20.
  bar.update(20);
  minute = 0.5;
  bar.update(30);
  minute = 1;
  bar.update(30);
  minute = 1.5;
  bar.update(40);
  minute = 2.5;
  bar.update(60);
  bar.stop();
  assert.deepEqual(lines, [
    "Measuring: 30 of 100 (30 %), about 7 min left\n",
    "Measuring: 60 of 100 (60 %), about 3 min left\n",
  ]);
});
