import { assert } from "std-testing";
import type { z } from "zod";
import { createMetrics } from "../../src/observe/metrics/mod.ts";
import { createApp } from "../../src/server/app.ts";
import { KEYLESS_PATHS, NO_GUARD } from "../../src/server/guard/guard.ts";
import * as answers from "../../src/server/openapi/answers.ts";
import { ERRORS, openApiDocument } from "../../src/server/openapi/document.ts";
import { docsPage } from "../../src/server/openapi/page.ts";
import { ROUTES } from "../../src/server/openapi/routes.ts";
import { openFakeServer, SERVED_NAME } from "./_server.ts";
import { eventData, only, post } from "./_wire.ts";

const metrics = createMetrics({ modelName: SERVED_NAME, version: "0.0.0" });
/** A server with every route that there is. */
const openWhole = () =>
  openFakeServer({ app: { operator: { metrics, slots: true, slotFiles: true } } });
const allRoutes = () =>
  createApp({
    model: new Promise(() => {}),
    servedName: SERVED_NAME,
    version: "1.2.3",
    operator: { metrics, slots: true, slotFiles: true },
  }).routes;

type Json = Record<string, unknown>;

Deno.test("every route is described, and what is described is a route", () => {
  const names = (routes: readonly { method: string; path: string }[]) =>
    routes.map(({ method, path }) => `${method} ${path}`).toSorted();
  assert.deepEqual(names(ROUTES), names(allRoutes()));
  const { paths } = openApiDocument(allRoutes(), "1.2.3");
  assert.deepEqual(
    Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`)
    ).toSorted(),
    names(allRoutes()),
  );
});

Deno.test("/openapi.json says of every field what it takes and what it means", async () => {
  await using server = await openWhole();
  const response = await fetch(`${server.url}/openapi.json`);
  assert.equal(response.headers.get("content-type"), "application/json");
  const document = await response.json();
  assert.equal(document.openapi, "3.1.0");
  const ids = new Set<string>();
  for (const [path, methods] of Object.entries(document.paths as Record<string, Json>)) {
    for (const [method, operation] of Object.entries(methods as Record<string, Json>)) {
      const { operationId, requestBody, parameters = [], responses } = operation as {
        operationId: string;
        requestBody?: { content: Record<string, { schema: Json; example: Json }> };
        parameters?: { name: string; in: string; required: boolean }[];
        responses: Json;
      };
      assert.ok(!ids.has(operationId), operationId);
      ids.add(operationId);
      assert.deepEqual(
        [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name),
        parameters.filter((each) => each.in === "path").map(({ name }) => name),
      );
      for (const status of [200, 400, 405, 408, 429, 431, 500, 503]) {
        assert.ok(status in responses, path);
      }
      assert.equal(requestBody !== undefined, method === "post");
      const schema = requestBody?.content["application/json"]?.schema ?? {};
      const properties = (schema["properties"] ?? {}) as Record<string, Json>;
      for (const [name, { description, ...rest }] of Object.entries(properties)) {
        assert.match(String(description), /\S/, `${path} ${name}`);
        const says = ["type", "anyOf", "enum"].some((key) => key in rest);
        assert.ok(says, `${path} ${name}: ${JSON.stringify(rest)}`);
      }
    }
  }
  const text = JSON.stringify(document);
  assert.ok(!text.includes("$schema") && !text.includes('":null,"type"'));
  const chat = document.paths["/v1/chat/completions"].post.requestBody.content["application/json"];
  assert.deepEqual(chat.schema.required, ["messages"]);
  assert.deepEqual(chat.schema.properties.temperature, {
    type: "number",
    minimum: 0,
    maximum: 2,
    default: 1,
    description: "0 takes the likeliest token.",
  });
  assert.equal(chat.schema.properties.kv.additionalProperties, false);
});

Deno.test("examples are accepted, and answers are what their schemas say, member by member", async () => {
  await using server = await openWhole();
  const exactly = async (schema: z.ZodType, response: Response, status = 200) => {
    const body = await response.json();
    assert.equal(response.status, status, JSON.stringify(body));
    // What a schema does not name it drops.
    assert.deepEqual(schema.parse(body), body);
  };
  for (const { method, path, body, answer } of ROUTES) {
    if ("media" in answer || path.startsWith("/slots/")) continue;
    const url = path.replace("{name}", SERVED_NAME);
    await exactly(
      answer,
      method === "POST"
        ? await post(server, url, body?.example)
        : await fetch(`${server.url}${url}`),
    );
  }
  for (const action of ["save", "restore", "erase"]) {
    const response = await post(server, `/slots/0?action=${action}`, { filename: "a" });
    await exactly(answers.slotAnswer, response);
  }
  const detailed = { logprobs: true, top_logprobs: 2, return_token_ids: true, n: 2, max_tokens: 2 };
  const messages = [{ role: "user", content: "x" }];
  await exactly(
    answers.chatAnswer,
    await post(server, "/v1/chat/completions", { ...detailed, messages }),
  );
  await exactly(
    answers.completionAnswer,
    await post(server, "/v1/completions", { ...detailed, prompt: "a", logprobs: 1, echo: true }),
  );
  await exactly(answers.errorAnswer, await post(server, "/v1/completions", {}), 400);
});

Deno.test("chunks of streams and their error events are what the schemas say, member by member", async () => {
  await using server = await openWhole();
  const chunksOf = async (path: string, body: object) => {
    const all = {
      stream: true,
      n: 2,
      max_tokens: 3,
      return_token_ids: true,
      return_progress: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    };
    const data = eventData(await (await post(server, path, { ...all, ...body })).text());
    assert.equal(data.pop(), "[DONE]");
    return data.map((text) => JSON.parse(text));
  };
  const messages = [{ role: "user", content: "x" }];
  const cases = [
    ["/v1/completions", answers.completionChunk, { prompt: "a", logprobs: 1, echo: true }],
    ["/v1/chat/completions", answers.chatChunk, { messages, logprobs: true, top_logprobs: 2 }],
  ] as const;
  for (const [path, schema, body] of cases) {
    const chunks = await chunksOf(path, body);
    for (const chunk of chunks) assert.deepEqual(schema.parse(chunk), chunk);
    // All members were seen.
    const members = new Set(chunks.flatMap((chunk) => Object.keys(chunk)));
    for (const name of ["prompt_progress", "usage", "timings"]) assert.ok(members.has(name), name);
    assert.deepEqual(chunks.at(-1).choices, []);
  }
  server.engine.generate = async function* () {
    yield { type: "error", error: { code: "device_lost", message: "gone" } };
  };
  for (const [path, , body] of cases) {
    const failure = only(await chunksOf(path, body));
    assert.deepEqual(answers.errorAnswer.parse(failure), failure);
  }
});

Deno.test("/openapi.json says where a key is needed, and how it is sent", async () => {
  const guard = { ...NO_GUARD, apiKeys: ["right"] };
  await using server = await openFakeServer({
    app: { guard, operator: { metrics, slots: true, slotFiles: true } },
  });
  const keys: readonly Record<string, string>[] = [
    { authorization: "Bearer right" },
    { "x-api-key": "right" },
  ];
  const [bearer, header] = keys;
  const statusOf = async (path: string, headers: Record<string, string> = {}) => {
    const response = await fetch(`${server.url}${path}`, { headers });
    await response.body?.cancel();
    return response.status;
  };
  const { paths, components } = await (await fetch(`${server.url}/openapi.json`, {
    headers: bearer!,
  })).json();
  assert.deepEqual(components.securitySchemes, {
    bearer: { type: "http", scheme: "bearer" },
    header: { type: "apiKey", in: "header", name: "x-api-key" },
  });
  for (const [path, methods] of Object.entries(paths as Record<string, Record<string, Json>>)) {
    const { get } = methods;
    if (get === undefined || path.includes("{")) continue;
    const isOpen = get["security"] !== undefined;
    if (isOpen) assert.deepEqual(get["security"], []);
    assert.equal(await statusOf(path), isOpen ? 200 : 401, path);
    for (const key of [bearer, header]) assert.equal(await statusOf(path, key), 200, path);
  }
});

Deno.test("/openapi.json says what the events of a stream hold", () => {
  const { paths, components } = openApiDocument(allRoutes(), "1.2.3") as unknown as {
    paths: Record<string, Record<string, { responses: { 200: { content: Json } } }>>;
    components: { schemas: Record<string, Json> };
  };
  let numStreams = 0;
  for (const [path, methods] of Object.entries(paths)) {
    for (const { responses } of Object.values(methods)) {
      const events = responses[200].content["text/event-stream"] as { schema: Json } | undefined;
      if (events === undefined) continue;
      numStreams++;
      const [chunk, error, done] = events.schema["anyOf"] as { $ref?: string; const?: string }[];
      assert.equal(done?.const, "[DONE]");
      for (const { $ref = "" } of [chunk!, error!]) {
        const schema = components.schemas[$ref.replace("#/components/schemas/", "")];
        assert.equal(schema?.["type"], "object", `${path}: ${$ref}`);
      }
    }
  }
  assert.equal(numStreams, 2);
});

Deno.test("/docs is one page with every field, which loads nothing and runs nothing", async () => {
  await using server = await openWhole();
  const response = await fetch(`${server.url}/docs`);
  assert.equal(response.headers.get("content-type"), "text/html; charset=utf-8");
  assert.match(response.headers.get("content-security-policy") ?? "", /^default-src 'none'/);
  const page = await response.text();
  assert.doesNotMatch(page, /<script|<img|<link|<iframe|\bsrc=|@import|url\(/i);
  for (const [, target] of page.matchAll(/href="([^"]*)"/g)) {
    assert.match(target!, /^(#[\w-]+|openapi\.json)$/);
    if (target!.startsWith("#")) assert.ok(page.includes(`id="${target!.slice(1)}"`), target);
  }
  for (const { path, body } of ROUTES) {
    assert.ok(page.includes(path), path);
    for (const name of Object.keys(body?.fields ?? {})) {
      assert.ok(page.includes(`<code>${name}</code>`), `${path} ${name}`);
    }
  }
  assert.ok(page.includes("<code>kv.recall_every</code>"));
  for (const status of Object.keys(ERRORS)) assert.ok(page.includes(`<code>${status}</code>`));
});

Deno.test("a name is text in the page, whatever it is", () => {
  const modelName = "<script>alert(1)</script>";
  const page = docsPage(allRoutes(), { version: "1", modelName, needsKey: false })("http://<b>");
  assert.ok(!page.includes("<b>") && !page.includes("\0"));
  assert.ok(!page.includes("<script>"));
  assert.ok(page.includes("&lt;script&gt;"));
});

Deno.test("/docs shows the address that it was loaded from, and a key where one is needed", async () => {
  const guard = { ...NO_GUARD, apiKeys: ["right"] };
  await using server = await openFakeServer({ app: { guard } });
  await using open = await openWhole();
  const key = { authorization: "Bearer right" };
  const page = async (url: string, headers: Record<string, string> = {}) => {
    const response = await fetch(`${url}/docs`, { headers });
    assert.equal(response.headers.get("cache-control"), "no-store");
    return (await response.text()).replaceAll("&#39;", "'");
  };
  const kept = await page(server.url, key);
  // A browser sends none, and the page tells nothing that a key is for.
  assert.equal(await page(server.url), kept);
  assert.ok(!kept.includes(SERVED_NAME), "the model's name");
  const commands = [...kept.matchAll(/<pre>([^]*?)<\/pre>/g)].map(([, text]) => text!);
  assert.ok(commands.length >= 5);
  for (const text of commands) {
    assert.ok(text.startsWith(`curl -X POST '${server.url}/`), text);
    assert.ok(text.includes(" -H 'authorization: Bearer KEY' "), text);
  }
  for (const path of KEYLESS_PATHS) assert.ok(kept.includes(`<code>${path}</code>`), path);
  assert.ok(!kept.includes("right"));

  const free = await page(open.url);
  assert.ok(free.includes(`serving <code>${SERVED_NAME}</code>`));
  assert.ok(free.includes(`curl -X POST '${open.url}/slots/0?action=save'`));
  assert.ok(!/authorization: bearer/i.test(free));
  assert.match(free, /started without keys/);

  // Behind a proxy, and by the other name of this machine: the page is made once, the address is not.
  const { port } = new URL(open.url);
  const other = `http://localhost:${port}`;
  assert.ok((await page(other)).includes(`curl -X POST '${other}/tokenize'`));
  const tls = await page(open.url, { "x-forwarded-proto": "https" });
  assert.ok(tls.includes(`curl -X POST 'https://127.0.0.1:${port}/tokenize'`));
  assert.ok(!(await page(open.url, { "x-forwarded-proto": "';id" })).includes(";id"));
});

Deno.test("/docs and /openapi.json say what a server without --slot-dir does not do", async () => {
  await using server = await openFakeServer({ app: { operator: { slots: true } } });
  const { paths } = await (await fetch(`${server.url}/openapi.json`)).json();
  const page = (await (await fetch(`${server.url}/docs`)).text()).replaceAll("&#39;", "'");
  const { description, requestBody } = paths["/slots/{id}"].post;
  assert.match(description, /was started without `--slot-dir`: `save` and `restore` are 501 here/);
  assert.equal(requestBody.content["application/json"].example, undefined);
  assert.match(page, /was started without <code>--slot-dir<\/code>/);
  const example = [...page.matchAll(/<pre>(curl [^<]*\/slots\/[^<]*)<\/pre>/g)].map(([, text]) =>
    text
  );
  assert.deepEqual(example, [`curl -X POST '${server.url}/slots/0?action=erase'`]);
  const erased = await fetch(`${server.url}/slots/0?action=erase`, { method: "POST" });
  assert.equal(erased.status, 200);
  await erased.body?.cancel();

  await using whole = await openWhole();
  const kept = await (await fetch(`${whole.url}/docs`)).text();
  assert.ok(!kept.includes("was started without <code>--slot-dir"));
  assert.match(kept, /need a server with <code>--slot-dir<\/code>/);
});

Deno.test("no name of a host gets out of the quotes of an example", async () => {
  const app = createApp({ model: new Promise(() => {}), servedName: SERVED_NAME, version: "1" });
  const page = async (url: string) =>
    (await (await app.fetch(new Request(url))).text()).replaceAll("&#39;", "'");
  for (const url of ["http://a'$(id)'.example/docs", "http://a`id`/docs", "http://a;id/docs"]) {
    const text = await page(url);
    assert.ok(text.includes("curl -X POST 'http://127.0.0.1:8080/tokenize'"), url);
    assert.ok(!text.includes("id)") && !text.includes("`id") && !text.includes(";id"), url);
  }
  assert.ok((await page("http://[::1]:9/docs")).includes("'http://[::1]:9/tokenize'"));
});

Deno.test("a wrong method is 405 with Allow on every route, as described", async () => {
  await using server = await openWhole();
  const { paths } = openApiDocument(allRoutes(), "1");
  for (const { method, path } of allRoutes()) {
    const url = `${server.url}${path.replace("{id}", "0").replace("{name}", SERVED_NAME)}`;
    const response = await fetch(url, { method: method === "GET" ? "POST" : "GET" });
    await response.body?.cancel();
    assert.equal(response.status, 405, path);
    assert.ok(response.headers.get("allow")?.startsWith(method), path);
    const { responses } = paths[path]![method.toLowerCase()] as {
      responses: Record<string, { headers?: Json }>;
    };
    assert.ok("Allow" in (responses["405"]?.headers ?? {}), path);
  }
});
