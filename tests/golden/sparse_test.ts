/** The default model under selection; `sparse_long.ts` has what takes longer. */
import { checkLogits, checkScore } from "./_sparse.ts";

Deno.test("default model with selected rows gives the reference's logits and NLL", async (t) => {
  await checkLogits(t, true);
});

Deno.test("score gives the reference's NLL of the default model with selected rows", async (t) => {
  await checkScore(t, ["oracle"]);
});
