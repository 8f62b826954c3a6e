import { assert } from "std-testing";
import process from "node:process";
import { durationText, progressLines, timedBar, timeLeft } from "../../src/cli/progress.ts";

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

Deno.test("the time that is left follows from what was done since the first call", () => {
  let seconds = 0;
  const left = timeLeft(100, () => seconds * 1000);
  assert.equal(left(0), null);
  seconds = 10;
  assert.equal(left(0), null);
  assert.equal(left(10), 90);
  // An earlier run did 60.
  const resumed = timeLeft(100, () => seconds * 1000);
  assert.equal(resumed(60), null);
  seconds = 20;
  assert.equal(resumed(70), 30);
  assert.equal(resumed(100), 0);
  assert.deepEqual([0, 40, 89.5, 91, 720, 5400, 7500].map(durationText), [
    "0 s",
    "40 s",
    "90 s",
    "2 min",
    "12 min",
    "1 h 30 min",
    "2 h 5 min",
  ]);
});

Deno.test("on a terminal long work has a bar with the time that is left", async () => {
  const { stderr } = process;
  const { write, isTTY } = stderr;
  let text = "";
  stderr.write = ((some: string) => {
    text += some;
    return true;
  }) as typeof write;
  stderr.isTTY = true;
  try {
    const bar = timedBar({ stderrIsTerminal: true, stderr: () => {} }, "Measuring", 4);
    for (let done = 0; done <= 2; done++) {
      bar.update(done);
      // Redraws are that far apart.
      await new Promise((resolve) => setTimeout(resolve, 110));
    }
    bar.stop();
  } finally {
    stderr.write = write;
    stderr.isTTY = isTTY;
  }
  assert.match(text, /Measuring \[[^\]]+\] 0%(?!,).*Measuring \[[^\]]+\] 50%, about 1 s left/s);
  assert.doesNotMatch(text, /NF|NULL|\{/);
});
