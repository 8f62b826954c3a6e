/** Sequences whose rows are fetched ahead: in company, parked, and ended early. */
import type { KvRequest } from "../../src/butler/settings.ts";
import { assert } from "std-testing";
import {
  BESIDE,
  force,
  forced,
  LONG,
  LONG_PROMPT,
  nll,
  nllOf,
  NUM_PROMPT,
  open,
  SOME,
} from "./_ahead.ts";
import { figure } from "./_golden.ts";
import { NLL_BOUND, onDevice, textIds, worst } from "./_offload.ts";
import { type Answer, request, run } from "./_requests.ts";

Deno.test("sequences that fetch ahead and in-step share batches", async (t) => {
  const texts = [0, 1, 2].map((n) => textIds(LONG + 5 * n, 320, 5 + n));
  for (const interval of [1, 3]) {
    const settings: KvRequest[] = [
      { ...BESIDE, policy: "loki", interval, fetch: "ahead" },
      { ...BESIDE, policy: "loki", interval, fetch: "in-step" },
      { ...BESIDE, policy: "quest", interval, fetch: "ahead" },
    ];
    const alone: number[][] = [];
    for (const [i, text] of texts.entries()) {
      alone.push(await nll(text, settings[i]!, onDevice(4), LONG_PROMPT));
    }
    for (const [blocks, how] of [[10, "two at once"], [5, "one at once"]] as const) {
      await t.step(`interval ${interval}, ${how}`, async () => {
        let most = 0;
        await using opened = await open(onDevice(blocks), {
          maxSequences: 3,
          stepped: (_parts, _step, numRows) => most = Math.max(most, numRows),
        });
        const answers = await Promise.all(
          texts.map((text, i) => force(opened, text, settings[i]!, LONG_PROMPT)),
        );
        assert.equal(most, blocks === 10 ? 2 : 1);
        answers.forEach((answer, i) => {
          const off = worst(nllOf(answer), alone[i]!);
          console.log(`sequence ${i}: ${figure(off)} off`);
          assert.ok(off <= NLL_BOUND, `sequence ${i} is off by ${off}`);
        });
      });
    }
  }
});

Deno.test("ahead, a sequence can be parked between any two steps", async () => {
  const text = textIds(200, 320);
  const layers = [{ role: "dense" }, { role: "selected", interval: 4 }, { role: "selected" }];
  const mixed = { interval: 1, table: { layers } } as KvRequest;
  for (const more of [{ interval: 1 }, { interval: 3 }, mixed]) {
    const kv: KvRequest = { ...SOME, policy: "loki", ...more, fetch: "ahead" };
    const wanted = await nll(text, kv, onDevice(4));
    for (const every of [1, 2, 5]) {
      // Gives the slot up and takes it again, as the scheduler does.
      await using opened = await open(onDevice(4), {
        stepped: async ({ runner, kv: cache }, step) => {
          if (step % every !== 0) return;
          const settings = runner.report(0)!.settings;
          const numRows = NUM_PROMPT + 1 + step;
          const parked = await runner.park(0);
          assert.ok(parked !== null);
          cache.release(0);
          const need = { settings, maxRows: text.length, numRows };
          cache.begin(0, need);
          await runner.begin(0, need);
          await runner.restore(0, parked);
        },
      });
      const off = worst(nllOf(await force(opened, text, kv)), wanted);
      const how = `${JSON.stringify(more)}, parked every ${every} steps`;
      console.log(`${how}: ${figure(off)} off`);
      assert.ok(off <= NLL_BOUND, `off by ${off}`);
    }
  }
});

Deno.test("what is under way for a sequence that ends early is dropped", async (t) => {
  const text = textIds(LONG, 320);
  const other = textIds(LONG - 1, 320, 23);
  const kv: KvRequest = { ...BESIDE, policy: "loki", fetch: "ahead" };
  const wanted = await nll(text, kv, onDevice(4), LONG_PROMPT);
  const otherWanted = await nll(other, kv, onDevice(4), LONG_PROMPT);
  const same = (answer: Answer, right: readonly number[], when: string) => {
    const off = worst(nllOf(answer), right);
    assert.ok(off <= NLL_BOUND, `${when}: off by ${off}`);
  };
  await t.step("cancelled", async () => {
    await using opened = await open(onDevice(4));
    for (const count of [1, 2, 3, 7]) {
      const { promptIds, maxTokens, ...more } = forced(other, LONG_PROMPT, kv);
      const first = request(promptIds, maxTokens, more);
      const answer = await run(opened.engine, first, (tokens) => {
        if (tokens === count) opened.engine.cancel(first.id);
      });
      assert.equal(answer.reason, "cancelled");
      same(await force(opened, text, kv, LONG_PROMPT), wanted, `after ${count} tokens`);
    }
  });
  await t.step("failed", async () => {
    let broken = false;
    await using opened = await open(onDevice(10), {
      maxSequences: 2,
      stepped: ({ kv: cache }, step, numRows) => {
        if (broken || step < 8 || numRows < 2) return;
        broken = true;
        // The rows of one of the two cannot be read any more.
        Object.defineProperty(cache.offloaded(0)!.stored, "gather", {
          value: () => {
            throw new Error("a part is damaged");
          },
        });
      },
    });
    const requests = [other, text].map((ids) => {
      const { promptIds, maxTokens, ...more } = forced(ids, LONG_PROMPT, kv);
      return run(opened.engine, request(promptIds, maxTokens, more));
    });
    const [failed, whole] = await Promise.all(requests);
    assert.match(failed!.error!.message, /a part is damaged/);
    same(whole!, wanted, "beside one that failed");
    same(await force(opened, other, kv, LONG_PROMPT), otherWanted, "after one that failed");
  });
});
