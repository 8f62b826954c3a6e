/**
 * The default model under selection, held against a reference: 600 tokens are prefilled, then fed one
 * by one, each attending to sinks, window and, for `oracle`, the best rows between them. The suite
 * has a short form of it, `sparse_long.ts` the whole.
 *
 * @module
 */
import type { EngineParts } from "../../src/engine/create.ts";
import { Readback } from "../../src/gpu/readback.ts";
import { DEFAULT_TIERS } from "../../src/engine/types.ts";
import type { KvRequest } from "../../src/butler/settings.ts";
import { runCommand } from "../../src/cli/cli.ts";
import { command as score } from "../../src/cli/commands/score.ts";
import { FakeIo } from "../cli/_io.ts";
import { assert } from "std-testing";
import { LogitReader, openEngine } from "./_engine.ts";
import {
  figure,
  maxError,
  SMOLLM2_LOGIT_BOUND,
  SMOLLM2_PATH,
  smollm2Sparse,
  type SparseExpected,
} from "./_golden.ts";
import { generate } from "./_requests.ts";

/** The rows that the newest step selected in a layer, by KV head. */
async function pickedRows(
  { runner, device }: EngineParts,
  layer: number,
): Promise<number[][]> {
  const { selection } = runner;
  assert.ok(selection !== null);
  const { numKvHeads, listCapacity } = selection.sizes;
  using readback = await Readback.create(device, numKvHeads * listCapacity * 4);
  const words = async ({ buffer, offset }: { buffer: GPUBuffer; offset: number }, n: number) =>
    new Uint32Array((await readback.copyAndRead(buffer, offset, n * 4)).slice().buffer);
  const counts = await words(selection.counts(layer), numKvHeads);
  const rows = await words(selection.picked(layer), numKvHeads * listCapacity);
  return Array.from(
    counts,
    (count, head) => [...rows.subarray(head * listCapacity, head * listCapacity + count)],
  );
}

function settingsOf(file: SparseExpected, policy: keyof SparseExpected["policies"]): KvRequest {
  const { S, W, B } = file;
  return { policy, sinks: S, window: W, budget: { rows: B }, denseLayers: 1 };
}

/** Policies that there are reference answers of. */
export const SPARSE_POLICIES = ["dense", "streaming", "oracle"] as const;
type SparsePolicy = (typeof SPARSE_POLICIES)[number];

/**
 * Logits and NLL of every step, and the rows that the first one selects.
 *
 * @param prefixCache Whether the prompt, which is dense under every policy, is prefilled once for all.
 */
export async function checkLogits(t: Deno.TestContext, prefixCache: boolean): Promise<void> {
  const file = await smollm2Sparse();
  let reader: LogitReader | undefined;
  let logits: Float32Array[] = [];
  let firstStep: (() => Promise<void>) | null = null;
  await using opened = await openEngine(
    SMOLLM2_PATH,
    {
      kvType: "f32",
      contextLength: 640,
      maxSequences: 1,
      prefillChunk: 256,
      tiers: { ...DEFAULT_TIERS, prefixCache },
    },
    async (parts) => {
      reader = await LogitReader.create(parts);
      return {
        decoded: async () => {
          logits.push(await reader!.first());
          await firstStep?.();
          firstStep = null;
        },
      };
    },
  );
  for (const policy of SPARSE_POLICIES) {
    await t.step(policy, async () => {
      const { steps, first_step_rows_of_layer: wantedRows = {} } = file.policies[policy];
      logits = [];
      const forcedIds = file.ids.slice(file.prefill);
      const gotRows: Record<string, number[][]> = {};
      firstStep = async () => {
        for (const layer of Object.keys(wantedRows)) {
          gotRows[layer] = await pickedRows(opened.parts, Number(layer));
        }
      };
      const prompt = file.ids.slice(0, file.prefill);
      const kv = settingsOf(file, policy);
      const answer = await generate(opened.engine, prompt, forcedIds.length, {
        forcedIds,
        logprobs: 0,
        kv,
      });
      let worstLogit = 0;
      let worstNll = 0;
      steps.forEach(({ top5_ids, top5_logits, next_nll }, step) => {
        const row = logits[step]!;
        const off = maxError(top5_ids.map((id) => row[id]!), top5_logits);
        worstLogit = Math.max(worstLogit, off);
        const nll = -answer.logprobs[step + 1]!.logprob;
        worstNll = Math.max(worstNll, Math.abs(nll - next_nll));
      });
      let swapped = 0;
      for (const [layer, wanted] of Object.entries(wantedRows)) {
        wanted.forEach((rows, head) => {
          const got = gotRows[layer]![head]!;
          assert.equal(got.length, rows.length);
          swapped += rows.filter((row) => !got.includes(row)).length;
        });
      }
      console.log(
        `${policy}: logits at most ${figure(worstLogit)} off, NLL ${
          figure(worstNll)
        }; rows of the ` +
          `first step that differ: ${swapped}`,
      );
      assert.ok(worstLogit <= SMOLLM2_LOGIT_BOUND, `logits are off by ${worstLogit}`);
      assert.ok(worstNll <= SMOLLM2_LOGIT_BOUND, `NLL is off by ${worstNll}`);
      assert.equal(swapped, 0);
    });
  }
  reader?.[Symbol.dispose]();
}

/** What `score` says of the NLL. */
export async function checkScore(
  t: Deno.TestContext,
  of: readonly SparsePolicy[],
): Promise<void> {
  const { ids, prefill, S, W, B, policies } = await smollm2Sparse();
  for (const policy of of) {
    await t.step(policy, async () => {
      const io = new FakeIo();
      const kept = `--sinks ${S} --window ${W} --budget ${B} --dense-layers 1`;
      const line = `--prefill ${prefill} --policy ${policy} ${kept} --kv-type f32 --context 640`;
      await runCommand(score, [...line.split(" "), "--ids", JSON.stringify(ids), "--json"], io);
      const { nll, kv } = JSON.parse(io.out);
      const wanted = policies[policy].steps.map(({ next_nll }) => next_nll);
      // The last token of the text has no successor to be scored by.
      const worst = maxError(nll, wanted.slice(0, nll.length));
      assert.ok(nll.length >= wanted.length - 1);
      assert.equal(kv.policy, policy);
      // The last row is the token itself.
      const rows = { dense: prefill + (nll.length + 1) / 2, streaming: S + W, oracle: S + W + B };
      assert.equal(kv.rows_per_step, rows[policy]);
      assert.equal(kv.resident_share, 1);
      assert.equal(kv.bytes_per_step, 0);
      console.log(`score, ${policy}: NLL of ${nll.length} tokens at most ${figure(worst)} off`);
      assert.ok(worst <= SMOLLM2_LOGIT_BOUND, `NLL is off by ${worst}`);
    });
  }
}
