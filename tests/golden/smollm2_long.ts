/** What takes the default model too long for the suite: `deno task test:long`. */
import { smollm2Nll } from "./_golden.ts";
import { checkNll, checkTogether, openSmollm2 } from "./_smollm2.ts";

for (const kvType of ["f16", "f32"] as const) {
  Deno.test(`default model with ${kvType} KV gives the reference's NLL of long texts`, async (t) => {
    await using opened = await openSmollm2(kvType, 2048, 1);
    for (const text of await smollm2Nll()) await checkNll(t, opened.engine, text);
  });
}

Deno.test("eight sequences that join and leave give the tokens they give alone", async () => {
  const { ids } = (await smollm2Nll())[1]!;
  await using opened = await openSmollm2("f16", 512, 8);
  await checkTogether(
    opened.engine,
    [3, 200, 17, 120, 41, 7, 64, 90].map((length, index) => ({
      promptIds: ids.slice(index * 200, index * 200 + length),
      maxTokens: 64,
      afterTokens: 7,
    })),
    // Clear choices before the first close one: 36 of the sixth, all 64 of the others.
    { tokens: 32, share: 0.9 },
  );
});
