/** What routes answer with a real engine behind them, member by member, in llama.cpp's shapes. */
import { assert } from "std-testing";
import { z } from "zod";
import { createMetrics } from "../../src/observe/metrics/mod.ts";
import { openApiDocument } from "../../src/server/openapi/document.ts";
import { ROUTES } from "../../src/server/openapi/routes.ts";
import { CONTEXT_LENGTH, MAX_SEQUENCES, withTestEngine } from "./_engine.ts";
import { SERVED_NAME, type TestServer } from "./_server.ts";
import { only, post, readAs } from "./_wire.ts";

const openTestServer = withTestEngine();
const metrics = createMetrics({ modelName: SERVED_NAME, version: "0.0.0" });
const openWhole = () => openTestServer({ operator: { metrics, slots: true } });

const get = async <S extends z.ZodType>(server: TestServer, path: string, schema: S) =>
  readAs(schema, await fetch(`${server.url}${path}`));

Deno.test("with a real engine, routes answer what /openapi.json says, member by member", async () => {
  await using server = await openWhole();
  let numAnswers = 0;
  for (const { method, path, body, answer } of ROUTES) {
    if ("media" in answer || path.startsWith("/slots/")) continue;
    const url = path.replace("{name}", SERVED_NAME);
    const response = method === "POST"
      ? await post(server, url, body?.example)
      : await fetch(`${server.url}${url}`);
    const value = await response.json();
    assert.equal(response.status, 200, `${path}: ${JSON.stringify(value)}`);
    // What a schema does not name it drops.
    assert.deepEqual(answer.parse(value), value, path);
    numAnswers++;
  }
  assert.ok(numAnswers >= 11, `${numAnswers}`);
});

Deno.test("/v1/models and /props have the members that clients of llama.cpp and vLLM read", async () => {
  await using server = await openWhole();
  const count = z.int().positive();
  const meta = { vocab_type: z.int(), n_vocab: z.literal(320), n_ctx_train: count, n_embd: count };
  const models = await get(
    server,
    "/v1/models",
    z.strictObject({
      object: z.literal("list"),
      data: z.array(z.strictObject({
        id: z.literal(SERVED_NAME),
        object: z.literal("model"),
        created: count,
        owned_by: z.string(),
        max_model_len: z.literal(CONTEXT_LENGTH),
        meta: z.strictObject({ ...meta, n_params: count, size: count }),
      })),
    }),
  );
  assert.equal(models.data.length, 1);
  const props = await get(
    server,
    "/props",
    z.object({
      default_generation_settings: z.object({
        id: z.literal(0),
        is_processing: z.literal(false),
        n_ctx: z.literal(CONTEXT_LENGTH),
        params: z.object({ temperature: z.number(), top_k: z.int(), top_p: z.number() }),
      }),
      total_slots: z.literal(MAX_SEQUENCES),
      model_path: z.string(),
      chat_template: z.string(),
      chat_template_caps: z.object({
        supports_system_role: z.literal(true),
        supports_tools: z.literal(false),
      }),
      modalities: z.object({ vision: z.literal(false), audio: z.literal(false) }),
      build_info: z.string(),
      is_sleeping: z.literal(false),
    }),
  );
  // A name, not where it lies.
  assert.ok(!props.model_path.includes("/"));
});

Deno.test("/tokenize, /detokenize and /apply-template give what a completion is made of", async () => {
  await using server = await openWhole();
  const tokens = z.strictObject({ tokens: z.array(z.int()) });
  const tokenized = async (body: object) =>
    (await readAs(tokens, await post(server, "/tokenize", body))).tokens;
  const messages = [{ role: "user", content: "Grüße, 世界! <|eot_id|>" }];
  const { prompt } = await readAs(
    z.strictObject({ prompt: z.string() }),
    await post(server, "/apply-template", { messages }),
  );
  assert.ok(prompt.includes("Grüße, 世界! <|eot_id|>"));

  const plain = await tokenized({ content: "Grüße, 世界!" });
  const content = z.strictObject({ content: z.string() });
  const back = await readAs(content, await post(server, "/detokenize", { tokens: plain }));
  assert.equal(back.content, "Grüße, 世界!");
  assert.equal((await tokenized({ content: "<|eot_id|>" })).length, 1);
  assert.ok((await tokenized({ content: "<|eot_id|>", parse_special: false })).length > 1);
  const [bos, ...rest] = await tokenized({ content: "Grüße, 世界!", add_special: true });
  assert.equal(bos, 1);
  assert.deepEqual(rest, plain);

  const piece = z.union([z.string(), z.array(z.int())]);
  const pieces = await readAs(
    z.strictObject({ tokens: z.array(z.strictObject({ id: z.int(), piece })) }),
    await post(server, "/tokenize", { content: "Grüße, 世界!", with_pieces: true }),
  );
  assert.deepEqual(pieces.tokens.map(({ id }) => id), plain);
  const bytes = pieces.tokens.flatMap(({ piece }) =>
    typeof piece === "string" ? [...new TextEncoder().encode(piece)] : piece
  );
  assert.equal(new TextDecoder().decode(Uint8Array.from(bytes)), "Grüße, 世界!");

  const answer = z.object({
    choices: z.array(z.object({ prompt_token_ids: z.array(z.int()) })),
  });
  const body = { prompt: "Grüße, 世界!", max_tokens: 1, return_token_ids: true };
  const asked = only((await readAs(answer, await post(server, "/v1/completions", body))).choices);
  assert.deepEqual(asked.prompt_token_ids, [bos, ...plain]);
});

/** A part of a JSON Schema that takes numbers. */
interface NumberShape {
  readonly type?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
}

/** Calls back for each part that takes numbers, with the names on the way there. */
function eachNumber(part: unknown, path: string, call: (path: string, part: NumberShape) => void) {
  if (typeof part !== "object" || part === null) return;
  const shape = part as NumberShape;
  if (shape.type === "number" || shape.type === "integer") call(path, shape);
  for (const [name, inner] of Object.entries(part)) {
    if (name !== "example" && name !== "examples") eachNumber(inner, `${path}.${name}`, call);
  }
}

Deno.test("every number in a request has a least and a greatest value", () => {
  const { paths } = openApiDocument(ROUTES, "1.2.3");
  let numNumbers = 0;
  for (const [path, methods] of Object.entries(paths)) {
    for (const operation of Object.values(methods)) {
      const { requestBody } = operation as { requestBody?: unknown };
      eachNumber(requestBody, path, (where, { minimum, maximum, exclusiveMinimum }) => {
        numNumbers++;
        assert.ok(Number.isFinite(minimum ?? exclusiveMinimum), `${where} has no least value`);
        assert.ok(Number.isFinite(maximum), `${where} has no greatest value`);
      });
    }
  }
  assert.ok(numNumbers > 40, `${numNumbers} numbers`);
});
