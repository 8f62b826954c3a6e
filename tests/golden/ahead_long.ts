/** Settings of rows that are fetched ahead that take too long for the suite. */
import { checkAnySizes, checkDelay, type DelayCase } from "./_ahead_delay.ts";

Deno.test("ahead, a step attends to what was chosen two steps before, under each policy", async (t) => {
  const ranked = (["loki", "tokenbutler", "oracle"] as const).flatMap((policy): DelayCase[] => [
    [policy, 1, false],
    [policy, 3, false],
    [policy, 3, true],
  ]);
  await checkDelay(t, [...ranked, ["quest", 1, false], ["quest", 3, false]]);
});

Deno.test("ahead, many sizes: the pool and the disk change nothing", async () => {
  await checkAnySizes(12, 20);
});
