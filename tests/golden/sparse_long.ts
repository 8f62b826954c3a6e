/** What takes the default model under selection too long for the suite. */
import { checkLogits, checkScore, SPARSE_POLICIES } from "./_sparse.ts";

Deno.test("default model, each policy with a prefill of its own, gives the reference's logits and NLL", async (t) => {
  await checkLogits(t, false);
});

Deno.test("score gives the reference's NLL of the default model under each policy", async (t) => {
  await checkScore(t, SPARSE_POLICIES);
});
