import { assert } from "std-testing";
import type { BudgetTable } from "../../src/butler/budget_table.ts";
import { wireReport } from "../../src/butler/report.ts";
import { type KvReport, type KvRequest, mergeKv, resolveKv } from "../../src/butler/settings.ts";
import type { GenerateRequest } from "../../src/engine/types.ts";
import { tableOf } from "../butler/_tables.ts";
import { openFakeServer } from "./_server.ts";
import { postChat, postCompletion, postFailing, streamChat, streamCompletion } from "./_wire.ts";

const MODEL = { numLayers: 2, numKvHeads: 2 };

/** What an engine would report that fetched a row for each token of the prompt. */
function reportOf(
  request: GenerateRequest,
  defaults: KvRequest = {},
  budgetTable: BudgetTable | null = null,
): KvReport {
  const canPredict = budgetTable !== null;
  const situation = { fits: true, canProject: true, canPredict, budgetTable };
  const { settings, notes } = resolveKv(mergeKv(defaults, request.kv ?? {}), MODEL, situation);
  return {
    policy: settings.policy,
    settings,
    rowsPerStep: request.promptIds.length,
    bytesPerStep: request.promptIds.length * 64,
    residentShare: 0.5,
    tiers: { device: request.promptIds.length, host: 2, disk: 3 },
    recall: settings.recallEvery === 0 ? null : { mass: 0.9, overlap: 0.75, steps: 4 },
    notes,
  };
}

const messages = [{ role: "user", content: "x" }];
const WIRE = {
  policy: "loki",
  sinks: 4,
  window: 8,
  budget: "12.5%",
  interval: 2,
  neighbours: false,
  dense_layers: 0,
  fetch: "ahead",
  recall_every: 3,
} as const;
const READ: KvRequest = {
  policy: "loki",
  sinks: 4,
  window: 8,
  budget: { share: 0.125 },
  interval: 2,
  neighbours: false,
  denseLayers: 0,
  fetch: "ahead",
  recallEvery: 3,
};

Deno.test("POST /v1/* passes the settings of the KV cache on and reports them", async () => {
  await using server = await openFakeServer({ kvReport: (request) => reportOf(request) });
  const answers = [
    await postCompletion(server, { prompt: "xy", kv: WIRE }),
    await postChat(server, { messages, kv: WIRE }),
  ];
  for (const [index, { kv }] of answers.entries()) {
    const request = server.engine.requests[index];
    assert.deepEqual(request?.kv, READ);
    const numPrompt = request?.promptIds.length ?? 0;
    assert.deepEqual(kv, {
      ...WIRE,
      rows_per_step: numPrompt,
      bytes_per_step: numPrompt * 64,
      resident_share: 0.5,
      tiers: { device: numPrompt, host: 2, disk: 3 },
      recall: { mass: 0.9, overlap: 0.75, steps: 4 },
    });
  }
});

Deno.test("POST /v1/* reports what was taken where a request says nothing", async () => {
  await using server = await openFakeServer({ kvReport: (request) => reportOf(request) });
  const { kv } = await postCompletion(server, { prompt: "x" });
  assert.equal(server.engine.requests[0]?.kv, undefined);
  assert.equal(kv?.policy, "dense");
  assert.equal(kv?.recall, undefined);
  assert.equal(kv?.notes, undefined);
  assert.ok(!("kv" in server.engine.requests[0]!));
  for (const empty of [null, {}, { policy: null }]) {
    assert.deepEqual((await postCompletion(server, { prompt: "x", kv: empty })).kv, kv);
  }
});

Deno.test("POST /v1/* leaves kv out where the engine says nothing of it", async () => {
  await using server = await openFakeServer();
  assert.ok(!("kv" in await postCompletion(server, { prompt: "x" })));
  const chunks = await streamCompletion(server, { prompt: "x" });
  assert.ok(chunks.every((chunk) => !("kv" in chunk)));
});

Deno.test("streams carry kv where they carry timings", async () => {
  await using server = await openFakeServer({ kvReport: (request) => reportOf(request) });
  const stream_options = { include_usage: true };
  const streams = [
    await streamCompletion(server, { prompt: "x", kv: WIRE, stream_options }),
    await streamChat(server, { messages, kv: WIRE, stream_options }),
  ];
  for (const chunks of streams) {
    const carrying = chunks.filter((chunk) => chunk.kv !== undefined);
    assert.deepEqual(carrying, chunks.filter((chunk) => chunk.timings !== undefined));
    // The end of the choice, and the chunk with the usage.
    assert.deepEqual(carrying.map((chunk) => chunk.choices.length), [1, 0]);
    assert.deepEqual(carrying[0]?.kv, carrying[1]?.kv);
    assert.equal(carrying[0]?.kv?.policy, "loki");
  }
});

Deno.test("several choices are reported alone where they end, and together with the usage", async () => {
  await using server = await openFakeServer({ kvReport: (request) => reportOf(request) });
  const body = { prompt: ["a", "bcd"], max_tokens: 3, kv: WIRE };
  const { kv } = await postCompletion(server, body);
  assert.equal(kv?.rows_per_step, 2);
  assert.deepEqual(kv?.tiers, { device: 4, host: 4, disk: 6 });
  assert.equal(kv?.recall?.steps, 8);
  const chunks = await streamCompletion(server, {
    ...body,
    stream_options: { include_usage: true },
  });
  assert.deepEqual(chunks.pop()?.kv, kv);
  const alone = chunks.flatMap((chunk) => chunk.kv?.rows_per_step ?? []);
  assert.deepEqual(alone.sort(), [1, 3]);
});

Deno.test("a request's settings are checked over those of the command line", async () => {
  const layers = [{ role: "window" }, { role: "selected", budgets: [1, 3] }] as const;
  const kvDefaults: KvRequest = { policy: "quest", table: { layers }, interval: 4 };
  await using server = await openFakeServer({
    kvDefaults,
    kvReport: (request) => reportOf(request, kvDefaults),
  });
  const { kv } = await postCompletion(server, { prompt: "x", kv: { policy: "h2o" } });
  assert.deepEqual(kv?.table, { layers });
  assert.equal(kv?.budget, 2);
  assert.equal(kv?.neighbours, true);
  const dense = await postCompletion(server, { prompt: "x", kv: { dense_layers: 1 } });
  assert.equal(dense.kv?.dense_layers, 1);
  assert.equal(dense.kv?.policy, "quest");

  const props = await (await fetch(`${server.url}/props`)).json();
  assert.deepEqual(props.default_generation_settings.params.kv, {
    policy: "quest",
    sinks: 64,
    window: 192,
    budget: 2,
    interval: 4,
    neighbours: true,
    table: { layers },
    fetch: "in-step",
    recall_every: 0,
  });
  assert.equal(props.kv.defaults, undefined);
  assert.equal(props.kv.canProject, true);
  assert.equal(props.kv.canPredict, false);
  assert.equal(props.kv.importanceKeys, "f16");
  assert.deepEqual(props.kv.tiers, { deviceBytes: 65536, hostBytes: 1 << 20, diskBytes: 0 });
});

Deno.test("a predictor's table is used, named in a word, and switched off by one", async () => {
  const budgetTable = tableOf(["window", "selected"], [[[0, 0], [3, 5]], [[0, 0], [30, 90]]]);
  const kvDefaults: KvRequest = { policy: "tokenbutler", budget: { rows: 60 } };
  await using server = await openFakeServer({
    kvDefaults,
    budgetTable,
    kvReport: (request) => reportOf(request, kvDefaults, budgetTable),
  });
  const kvOf = async (kv: unknown) => {
    const answer = await postCompletion(server, { prompt: "x", kv });
    return [answer.kv?.dense_layers, answer.kv?.table, answer.kv?.budget];
  };
  assert.deepEqual(await kvOf({}), [0, true, 60]);
  assert.deepEqual(await kvOf({ table: false }), [1, false, 60]);
  assert.deepEqual(server.engine.requests.at(-1)?.kv, { table: false });
  assert.deepEqual(await kvOf({ table: true, dense_layers: 1 }), [1, true, 60]);
  assert.deepEqual(await kvOf({ policy: "loki" }), [1, undefined, 60]);
  const layers = [{ role: "window" }, { role: "selected", budgets: [1, 3] }];
  assert.deepEqual(await kvOf({ table: { layers } }), [undefined, { layers }, 2]);

  const props = await (await fetch(`${server.url}/props`)).json();
  const { params } = props.default_generation_settings;
  assert.deepEqual([params.kv.dense_layers, params.kv.table], [0, true]);
  assert.deepEqual(props.kv.budgetMeans, [4, 60]);
  assert.equal(props.kv.budgetTable, undefined);
});

Deno.test("refusals of settings say what would do", async () => {
  await using server = await openFakeServer();
  const refuse = (kv: unknown) =>
    postFailing(server, "/v1/completions", { prompt: "x", kv, stream: true }, 400);
  for (
    const [kv, message] of [
      [{ polcy: 1 }, "`kv.polcy` is no setting of the KV cache (did you mean `policy`?)."],
      [{ sinks: -1 }, "`kv.sinks` must be a whole number from 0 to 65536, but is -1."],
      [
        { fetch: "ahed" },
        '`kv.fetch` must be one of in-step, ahead, but is "ahed" (did you mean ahead?).',
      ],
      [5, "`kv` must be an object, but is 5."],
    ] as const
  ) assert.equal((await refuse(kv)).message, message);
  assert.match((await refuse({ policy: "tokenbutler" })).message, /needs a trained predictor/);
  assert.equal((await refuse({ budget: "200%" })).code, "invalid_value");
  assert.match((await refuse({ budget: "200%" })).message, /but is "200%"\.$/);
});

Deno.test("what the engine refuses names its field", async () => {
  const failure = { code: "invalid_request", message: "no such thing", param: "kv.policy" };
  await using server = await openFakeServer({ failAt: () => 0, failure });
  const error = await postFailing(server, "/v1/completions", { prompt: "x" }, 400);
  assert.equal(error.param, "kv.policy");
});

Deno.test("wireReport() has the shape that answers have", async () => {
  await using server = await openFakeServer({ kvReport: (request) => reportOf(request) });
  const { kv } = await postCompletion(server, { prompt: "x", kv: { policy: "streaming" } });
  assert.deepEqual(kv, wireReport(reportOf(server.engine.requests[0]!)));
});
