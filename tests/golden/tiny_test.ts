/** Every architecture and every mix of weight types against stored answers. */
import { assert } from "std-testing";
import { LogitReader, openEngine } from "./_engine.ts";
import { figure, maxError, TINY_LOGIT_BOUND, tinyModels } from "./_golden.ts";
import { generate, scoreByEcho, scoreByForcing } from "./_requests.ts";

/** f16 rows have 11 bits: errors of 1e-3 of the largest logits, which are around 6, are expected. */
const F16_LOGIT_BOUND = 0.02;

/**
 * Pairs of rows, single rows, normed rows; the types of weights make no difference. The default
 * model has the other order of pairs.
 */
const F16_MODELS = ["llama31-bf16", "llama2-mha-f16", "qwen3-qknorm-f32"];

for (const { name, path, expected } of await tinyModels()) {
  const { ids, positions, logits, nll } = expected;
  const wanted = positions.map((position) => logits[position]!);
  const worst = (rows: readonly Float32Array[]) =>
    Math.max(...rows.map((row, index) => maxError(row, wanted[index]!)));

  Deno.test(`engine with f32 KV matches the reference on ${name}`, async () => {
    await using opened = await openEngine(path);
    const { engine, parts } = opened;
    using reader = await LogitReader.create(parts);
    const byPrefill = worst(await reader.prefilled(ids, positions, 64));
    const byDecode = worst(await reader.decoded(ids, positions));
    const byEcho = maxError(await scoreByEcho(engine, ids), nll);
    const byForcing = maxError(await scoreByForcing(engine, ids, 20), nll.slice(19));
    console.log(
      `${name} f32: logits ${figure(byPrefill)} prefilled, ${figure(byDecode)} decoded; ` +
        `NLL ${figure(byEcho)} echoed, ${figure(byForcing)} forced`,
    );
    assert.ok(byPrefill <= TINY_LOGIT_BOUND, `prefilled logits are off by ${byPrefill}`);
    assert.ok(byDecode <= TINY_LOGIT_BOUND, `decoded logits are off by ${byDecode}`);
    // A log-probability is a logit less a logsumexp, which is no further off than the logits.
    assert.ok(byEcho <= 2 * TINY_LOGIT_BOUND, `echoed NLL is off by ${byEcho}`);
    assert.ok(byForcing <= 2 * TINY_LOGIT_BOUND, `forced NLL is off by ${byForcing}`);
    const greedy = await generate(engine, ids.slice(0, 16), 24);
    assert.deepEqual(greedy.ids, expected.greedy_from_first_16);
  });

  if (!F16_MODELS.includes(name)) continue;
  Deno.test(`engine with f16 KV stays near the reference on ${name}`, async () => {
    await using opened = await openEngine(path, { kvType: "f16" });
    using reader = await LogitReader.create(opened.parts);
    const byPrefill = worst(await reader.prefilled(ids, positions, 64));
    const byDecode = worst(await reader.decoded(ids, positions));
    console.log(`${name} f16: logits ${figure(byPrefill)} prefilled, ${figure(byDecode)} decoded`);
    assert.ok(byPrefill <= F16_LOGIT_BOUND, `prefilled logits are off by ${byPrefill}`);
    assert.ok(byDecode <= F16_LOGIT_BOUND, `decoded logits are off by ${byDecode}`);
  });
}
