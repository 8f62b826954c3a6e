/** The default model in little device memory; `ten_mebibytes_long.ts` has what takes longer. */
import { BY_KEYS, checkPolicies, openSmall } from "./_ten_mebibytes.ts";

Deno.test("10 MiB of device memory serve 1,000 tokens under policies that share a prefill", async (t) => {
  // The prompt is prefilled once.
  await using opened = await openSmall("f16", 10, true);
  await checkPolicies(t, opened, BY_KEYS);
});
