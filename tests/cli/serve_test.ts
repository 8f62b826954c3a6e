import { assert } from "std-testing";
import { runCommand } from "../../src/cli/cli.ts";
import { serveCommand } from "../../src/cli/commands/serve.ts";
import type { OpenEngine } from "../../src/cli/session.ts";
import type { Engine } from "../../src/engine/types.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { FakeEngine, FakeTemplate, FakeTokenizer } from "../server/_fake.ts";
import { FakeIo } from "./_io.ts";

/** A server that is being started, over a fake engine that comes up when told. */
function start(args: readonly string[], open: OpenEngine) {
  const tokenizer = new FakeTokenizer();
  const template = new FakeTemplate(tokenizer);
  const listening = Promise.withResolvers<string>();
  const io = new FakeIo({
    onOut(self) {
      const url = self.out.match(/^listening on (http:\S+)\n$/)?.[1];
      if (url !== undefined) listening.resolve(url);
    },
  });
  const command = serveCommand(
    () => Promise.resolve({ name: "fake-model", tokenizer, template }),
    open,
  );
  return { io, template, url: listening.promise, code: runCommand(command, args, io) };
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

Deno.test("serve prints its address when the model answers, and ends at a signal with 0", async () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const args = ["--port", "0", "--model", "some.gguf"];
    const engine = new FakeEngine();
    const server = start(args, () => Promise.resolve(engine));
    const url = await server.url;
    assert.equal(await (await fetch(`${url}/health`)).text(), '{"status":"ok"}');
    const models = await (await fetch(`${url}/v1/models`)).json();
    assert.equal(models.data[0].id, "fake-model");
    assert.match(
      server.io.err,
      /fake-model: context 256, up to 4 sequences, f32 KV cache, on none/,
    );
    assert.match(
      server.io.err,
      /there is no predictor of this model \(\.\/run train .*\): loki chooses the rows where a /,
    );
    const before = performance.now();
    server.io.interrupt(signal);
    assert.equal(await server.code, 0);
    assert.ok(performance.now() - before < 5000);
    assert.ok(server.template.closed);
    assert.ok(engine.settled);
    await assert.rejects(fetch(`${url}/health`));
  }
});

Deno.test("serve answers 503 while the model loads, and an interrupt ends it then too", async () => {
  const port = freePort();
  const loading = Promise.withResolvers<Engine>();
  const server = start(["--port", String(port), "--served-model-name", "x"], () => loading.promise);
  let response: Response | undefined;
  while (response === undefined) {
    response = await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined);
  }
  assert.equal(response.status, 503);
  await response.body?.cancel();
  server.io.interrupt("SIGINT");
  loading.resolve(new FakeEngine());
  assert.equal(await server.code, 0);
  assert.equal(server.io.out, "");
});

Deno.test("serve ends with the error of a model that cannot be loaded", async () => {
  const failure = new ModelFileError("truncated", "x.gguf", "x.gguf ends early");
  const server = start(["--port", "0"], () => Promise.reject(failure));
  await assert.rejects(server.code, failure);
  assert.ok(server.template.closed);
});

Deno.test("serve names a port that is taken", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const server = start(
    ["--port", String(listener.addr.port)],
    () => Promise.resolve(new FakeEngine()),
  );
  await assert.rejects(server.code, /127\.0\.0\.1:\d+ is in use: choose another --port/);
  assert.ok(server.template.closed);
});

Deno.test("serve calls the default model by its short name", async () => {
  const server = start(["--port", "0"], () => Promise.resolve(new FakeEngine()));
  const models = await (await fetch(`${await server.url}/v1/models`)).json();
  assert.equal(models.data[0].id, "smollm2-135m-instruct");
  server.io.interrupt("SIGTERM");
  assert.equal(await server.code, 0);
});

Deno.test("serve refuses a body over --body-limit", async () => {
  const server = start(
    ["--port", "0", "--body-limit", "1024"],
    () => Promise.resolve(new FakeEngine()),
  );
  const response = await fetch(`${await server.url}/v1/completions`, {
    method: "POST",
    body: JSON.stringify({ prompt: "x".repeat(2000) }),
  });
  assert.equal(response.status, 413);
  await response.body?.cancel();
  server.io.interrupt("SIGTERM");
  assert.equal(await server.code, 0);
});

Deno.test("serve does not start where others reach it without a key", async () => {
  const server = start(["--port", "0", "--host", "0.0.0.0"], () => {
    throw new Error("must not be opened");
  });
  await assert.rejects(server.code, { name: "UsageError", message: /--api-key.*--insecure/ });
});

Deno.test("serve asks for a key where it was given one, and names hosts that it answers to", async () => {
  const args = ["--port", "0", "--api-key", "secret-key", "--allowed-host", "mine.example"];
  const server = start(args, () => Promise.resolve(new FakeEngine()));
  const url = await server.url;
  const status = async (path: string, headers: Record<string, string>) => {
    const response = await fetch(`${url}${path}`, { headers });
    await response.body?.cancel();
    return response.status;
  };
  assert.equal(await status("/health", {}), 200);
  assert.equal(await status("/v1/models", {}), 401);
  assert.equal(await status("/v1/models", { authorization: "Bearer secret-key" }), 200);
  assert.equal(await status("/health", { origin: "https://evil.example" }), 403);
  assert.ok(!server.io.err.includes("secret-key") && !server.io.out.includes("secret-key"));
  server.io.interrupt("SIGTERM");
  assert.equal(await server.code, 0);
});

Deno.test("serve on the loopback answers no other name, and says so when everybody may ask", async () => {
  const local = start(["--port", "0"], () => Promise.resolve(new FakeEngine()));
  const { port } = new URL(await local.url);
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
  const request = "GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n";
  await connection.write(new TextEncoder().encode(request));
  const bytes = new Uint8Array(4096);
  const count = await connection.read(bytes) ?? 0;
  assert.match(new TextDecoder().decode(bytes.subarray(0, count)), /^HTTP\/1\.1 403/);
  connection.close();
  local.io.interrupt("SIGTERM");
  assert.equal(await local.code, 0);

  const args = ["--port", "0", "--host", "0.0.0.0", "--insecure"];
  const open = start(args, () => Promise.resolve(new FakeEngine()));
  await open.url;
  assert.match(open.io.err, /note: 0\.0\.0\.0 can be reached from other machines, and everybody/);
  open.io.interrupt("SIGTERM");
  assert.equal(await open.code, 0);
});

Deno.test("serve has /metrics unless it is told not to, and logs JSON and nothing else if told so", async () => {
  for (const [flags, status] of [[[], 200], [["--no-metrics"], 404]] as const) {
    const args = ["--port", "0", "--log-format", "json", ...flags];
    const server = start(args, () => Promise.resolve(new FakeEngine()));
    const url = await server.url;
    const response = await fetch(`${url}/metrics`);
    assert.equal(response.status, status);
    await response.body?.cancel();
    await (await fetch(`${url}/v1/models`)).body?.cancel();
    server.io.interrupt("SIGTERM");
    assert.equal(await server.code, 0);
    const lines = server.io.err.trimEnd().split("\n").map((line) => JSON.parse(line));
    assert.ok(
      lines.some(({ level, message }) =>
        level === "info" && message.startsWith("smollm2-135m-instruct: context 256")
      ),
    );
    assert.ok(lines.some(({ route, status }) => route === "/v1/models" && status === 200));
  }
});

Deno.test("--log-level leaves out notes and the line about the model, and never the address", async () => {
  const said = async (level: string, format: string) => {
    const args = ["--port", "0", "--host", "0.0.0.0", "--insecure"];
    const server = start(
      [...args, "--log-level", level, "--log-format", format],
      (_, io) => {
        io.stderr("warning: a thing is odd\n");
        io.stderr("error: Error: a thing broke\n    at somewhere\n");
        return Promise.resolve(new FakeEngine());
      },
    );
    await server.url;
    server.io.interrupt("SIGTERM");
    assert.equal(await server.code, 0);
    return server.io.err;
  };
  const broken = "error: Error: a thing broke\n    at somewhere\n";
  assert.equal(await said("error", "text"), broken);
  assert.equal(await said("warn", "text"), `warning: a thing is odd\n${broken}`);
  const all = await said("info", "text");
  assert.match(all, /^note: 0\.0\.0\.0 can be reached/m);
  assert.match(all, /^smollm2-135m-instruct: context 256/m);
  assert.ok(all.includes(broken));
  const lines = (await said("error", "json")).trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines.map(({ level, message }) => [level, message]), [
    ["error", "Error: a thing broke"],
    ["error", "    at somewhere"],
  ]);
});
