import { assert, fc } from "std-testing";
import { LogitRules, type LogitRulesRequest } from "../../src/engine/logit_rules.ts";
import type { LogitAdjustment } from "../../src/engine/runner_types.ts";
import { GREEDY, type SamplingParams } from "../../src/engine/types.ts";

function request(
  sampling: Partial<SamplingParams>,
  change: Partial<LogitRulesRequest> = {},
): LogitRulesRequest {
  return {
    promptIds: [1, 2, 3, 2],
    minTokens: 0,
    stopTokenIds: [],
    bannedTokenIds: [],
    sampling: { ...GREEDY, ...sampling },
    ...change,
  };
}

function sorted(list: readonly LogitAdjustment[]): LogitAdjustment[] {
  return list.toSorted((a, b) => a.id - b.id);
}

function ban(id: number): LogitAdjustment {
  return { id, bias: 0, scale: 1, add: -Infinity };
}

/** The same from the whole history, each time anew. */
function expected(req: LogitRulesRequest, answer: readonly number[]): LogitAdjustment[] {
  const { sampling } = req;
  const history = [...req.promptIds, ...answer];
  const window = sampling.repeatLastN < 0
    ? history
    : sampling.repeatLastN === 0
    ? []
    : history.slice(-sampling.repeatLastN);
  const banned = [
    ...req.bannedTokenIds,
    ...(answer.length < req.minTokens ? req.stopTokenIds : []),
  ];
  const ids = new Set([...history, ...banned, ...sampling.logitBias.map(([id]) => id)]);
  const list = [...ids].map((id) => {
    if (banned.includes(id)) return ban(id);
    const count = answer.filter((token) => token === id).length;
    let bias = 0;
    for (const [token, add] of sampling.logitBias) if (token === id) bias += add;
    const penalty = count > 0 ? sampling.frequencyPenalty * count + sampling.presencePenalty : 0;
    return {
      id,
      bias,
      scale: window.includes(id) ? sampling.repetitionPenalty : 1,
      add: 0 - penalty,
    };
  });
  return sorted(list.filter(({ bias, scale, add }) => bias !== 0 || scale !== 1 || add !== 0));
}

Deno.test("LogitRules asks for nothing when no rule is active", () => {
  const rules = new LogitRules(request({}));
  assert.deepEqual(rules.adjustments(), []);
  const list = rules.adjustments();
  for (let i = 0; i < 100; i++) rules.push(i % 7);
  assert.equal(rules.adjustments(), list);
});

Deno.test("LogitRules penalises what is in the window of prompt and answer", () => {
  const rules = new LogitRules(request({ repetitionPenalty: 1.5, repeatLastN: 3 }));
  const ids = () => sorted(rules.adjustments()).map(({ id, scale }) => [id, scale]);
  assert.deepEqual(ids(), [[2, 1.5], [3, 1.5]]);
  rules.push(9);
  assert.deepEqual(ids(), [[2, 1.5], [3, 1.5], [9, 1.5]]);
  rules.push(9);
  assert.deepEqual(ids(), [[2, 1.5], [9, 1.5]]);
  rules.push(4);
  assert.deepEqual(ids(), [[4, 1.5], [9, 1.5]]);
});

Deno.test("LogitRules counts only the answer for frequency and presence", () => {
  const rules = new LogitRules(request({ frequencyPenalty: 0.5, presencePenalty: 0.25 }));
  assert.deepEqual(rules.adjustments(), []);
  rules.push(2);
  assert.deepEqual(rules.adjustments(), [{ id: 2, bias: 0, scale: 1, add: -0.75 }]);
  rules.push(2);
  assert.deepEqual(rules.adjustments(), [{ id: 2, bias: 0, scale: 1, add: -1.25 }]);
});

Deno.test("LogitRules keeps bias and penalties of a token apart", () => {
  const rules = new LogitRules(request({
    repetitionPenalty: 2,
    repeatLastN: 1,
    presencePenalty: 0.5,
    logitBias: [[2, 3], [2, 1]],
  }));
  assert.deepEqual(rules.adjustments(), [{ id: 2, bias: 4, scale: 2, add: 0 }]);
  rules.push(2);
  assert.deepEqual(rules.adjustments(), [{ id: 2, bias: 4, scale: 2, add: -0.5 }]);
  rules.push(9);
  assert.deepEqual(sorted(rules.adjustments()), [
    { id: 2, bias: 4, scale: 1, add: -0.5 },
    { id: 9, bias: 0, scale: 2, add: -0.5 },
  ]);
});

Deno.test("LogitRules holds stop tokens back until there are enough tokens", () => {
  const rules = new LogitRules(request({ logitBias: [[7, 2]] }, {
    minTokens: 2,
    stopTokenIds: [7, 8],
    bannedTokenIds: [8, 5],
  }));
  assert.deepEqual(sorted(rules.adjustments()), [ban(5), ban(7), ban(8)]);
  rules.push(1);
  assert.deepEqual(sorted(rules.adjustments()), [ban(5), ban(7), ban(8)]);
  rules.push(1);
  assert.deepEqual(sorted(rules.adjustments()), [
    ban(5),
    { id: 7, bias: 2, scale: 1, add: 0 },
    ban(8),
  ]);
});

Deno.test("LogitRules agrees with a look at the whole history", () => {
  const id = fc.integer({ min: 0, max: 9 });
  const ids = (maxLength: number) => fc.array(id, { maxLength });
  const step = fc.constantFrom(0, 0.5, -1, 2);
  fc.assert(
    fc.property(
      fc.record({
        promptIds: ids(12),
        minTokens: fc.nat({ max: 4 }),
        stopTokenIds: ids(2),
        bannedTokenIds: ids(2),
        sampling: fc.record({
          repetitionPenalty: fc.constantFrom(1, 1.25, 0.5),
          repeatLastN: fc.integer({ min: -1, max: 15 }),
          frequencyPenalty: step,
          presencePenalty: step,
          logitBias: fc.array(fc.tuple(id, fc.constantFrom(-2, 0.5, 2, -Infinity)), {
            maxLength: 3,
          }),
        }),
      }),
      ids(25),
      (parts, answer) => {
        const req = { ...parts, sampling: { ...GREEDY, ...parts.sampling } };
        const rules = new LogitRules(req);
        for (let n = 0; n <= answer.length; n++) {
          const got = sorted(rules.adjustments());
          const want = expected(req, answer.slice(0, n))
            .map((entry) => entry.bias === -Infinity ? ban(entry.id) : entry);
          assert.deepEqual(got, want);
          if (n < answer.length) rules.push(answer[n]!);
        }
      },
    ),
    { numRuns: 400, seed: 20 },
  );
});

Deno.test("LogitRules takes a push of a long history at once", () => {
  const promptIds = Array.from({ length: 200_000 }, (_, i) => (i * 7919) % 50_000);
  const rules = new LogitRules(
    request({ repetitionPenalty: 1.1, repeatLastN: 256 }, { promptIds }),
  );
  const start = performance.now();
  for (let i = 0; i < 2000; i++) {
    rules.push(i % 300);
    assert.ok(rules.adjustments().length <= 256);
  }
  // A walk over the history each time would take minutes.
  assert.ok(performance.now() - start < 2000);
});
