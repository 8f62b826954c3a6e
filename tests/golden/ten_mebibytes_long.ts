/** What takes the default model in little device memory too long for the suite. */
import { assert } from "std-testing";
import { figure } from "./_golden.ts";
import { NLL_BOUND, worst } from "./_offload.ts";
import { BELOW, checkPolicies, feedText, openSmall } from "./_ten_mebibytes.ts";

Deno.test("10 MiB serve 1,000 tokens under every policy, each with a prefill of its own", async (t) => {
  await using opened = await openSmall("f16", 10, false);
  await checkPolicies(t, opened, BELOW);
});

Deno.test("1,000 tokens below the device equal those on it, f32", async () => {
  const nll = async (deviceMib: number | null) => {
    await using opened = await openSmall("f32", deviceMib, false);
    return (await feedText(opened, "dense")).nll;
  };
  const off = worst(await nll(20), await nll(null));
  console.log(`dense, f32, 20 MiB: NLL at most ${figure(off)} off`);
  assert.ok(off <= NLL_BOUND, `NLL is off by ${off}`);
});
