import { assert } from "std-testing";
import { createTracing, isTraced } from "../../src/observe/tracing.ts";
import { post } from "../server/_wire.ts";
import { type ExportedSpan, openCollector } from "./_collector.ts";

Deno.test("nobody exports spans: there is no sink for them", async () => {
  assert.ok(!isTraced());
  assert.equal(await createTracing("tiny", "1.2.3"), null);
});

Deno.test("spans of queue, prefill and decode lie in the trace of their request", async () => {
  await using collector = openCollector();
  const { spans } = collector;
  const program = new URL("./_traced_server.ts", import.meta.url).pathname;
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "--no-prompt", "--allow-net", "--allow-read", program],
    env: collector.env,
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const url = ((await reader.read()).value ?? "").trim();
  const trace = "0af7651916cd43dd8448eb211c80319c";
  const ask = async (prompt: string, headers: Record<string, string> = {}) =>
    await (await post({ url }, "/v1/completions", { prompt, max_tokens: 5, stream: true }, {
      headers: { "content-type": "application/json", ...headers },
    })).text();
  await ask("abc", { traceparent: `00-${trace}-b7ad6b7169203331-01`, "x-request-id": "mine" });
  await ask("a");
  const writer = child.stdin.getWriter();
  await writer.write(Uint8Array.of(10));
  await writer.close();
  assert.equal((await child.status).code, 0);
  await reader.cancel();

  const named = (name: string) => spans.filter((span) => span.name === name);
  const attribute = ({ attributes }: ExportedSpan, key: string) =>
    Object.values(attributes.find((each) => each.key === key)?.value ?? {})[0];
  const [http] = named("POST /v1/completions").filter(({ traceId }) => traceId === trace);
  assert.ok(http, JSON.stringify(spans));
  assert.equal(http.parentSpanId, "b7ad6b7169203331");
  assert.equal(attribute(http, "http.route"), "/v1/completions");
  assert.equal(Number(attribute(http, "http.response.status_code")), 200);
  const [whole] = named("text_completion tiny").filter(({ traceId }) => traceId === trace);
  assert.ok(whole);
  assert.equal(whole.parentSpanId, http.spanId);
  assert.equal(Number(attribute(whole, "gen_ai.usage.input_tokens")), 3);
  assert.equal(Number(attribute(whole, "gen_ai.usage.output_tokens")), 5);
  assert.equal(attribute(whole, "tokenbutler.request_id"), "mine");
  let at = BigInt(whole.startTimeUnixNano);
  for (const name of ["queue", "prefill", "decode"]) {
    const [part] = named(name).filter(({ parentSpanId }) => parentSpanId === whole.spanId);
    assert.ok(part, name);
    assert.ok(BigInt(part.startTimeUnixNano) >= at - 1000n, name);
    at = BigInt(part.endTimeUnixNano);
    assert.ok(at <= BigInt(whole.endTimeUnixNano) + 1000n, name);
  }
  // The other request failed, in a trace of its own.
  const [failed] = named("text_completion tiny").filter(({ traceId }) => traceId !== trace);
  assert.ok(failed);
  assert.equal(failed.status.code, 2);
  assert.equal(attribute(failed, "error.type"), "internal");
});
