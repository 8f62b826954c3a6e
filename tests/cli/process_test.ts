/** The program as a process of its own, over the real engine and a tiny model. */
import { assert } from "std-testing";
import { MODEL, ROOT, run, start, waitFor } from "./_process.ts";

Deno.test("what a hint says to try works where it was typed, by ./run and by deno task", async () => {
  for (const typed of ["./run", "deno task"]) {
    const shell = (line: string) => run(["-c", line], { program: "/bin/sh" });
    const wrong = await shell(`${typed} serve --prot 1`);
    assert.equal(wrong.code, 2);
    const [, hint] = /^Try: (.*)$/m.exec(wrong.stderr) ?? [];
    assert.equal(hint, `${typed} serve --help`);
    const help = await shell(hint!);
    assert.equal(help.code, 0, help.stderr);
    assert.ok(help.stdout.includes(`\nUsage: ${typed} serve [flags]\n`), help.stdout);
  }
});

Deno.test("generate and score print one line, by ./run and by deno task, from any folder", async () => {
  const folder = await Deno.makeTempDir({ prefix: "token butler " });
  try {
    await Deno.writeTextFile(`${folder}/my ids.json`, "[1, 5, 9, 20, 33, 7]\n");
    await Deno.symlink(MODEL, `${folder}/model`);
    const flags = ["--ids", "my ids.json", "--model", "model", "--json"];
    const task = ["task", "-q", "--config", `${ROOT}/deno.json`];
    const options = { cwd: folder };
    const taskOptions = { ...options, program: Deno.execPath() };

    const generated = await run(["generate", ...flags, "-n", "6"], options);
    assert.equal(generated.code, 0, generated.stderr);
    assert.match(generated.stdout, /^[^\n]+\n$/);
    const answer = JSON.parse(generated.stdout);
    assert.deepEqual(Object.keys(answer), [
      "prompt_ids",
      "ids",
      "text",
      "finish_reason",
      "timings",
      "kv",
    ]);
    assert.deepEqual(answer.prompt_ids, [1, 5, 9, 20, 33, 7]);
    assert.equal(answer.timings.prompt_n, 6);

    const env = { TOKENBUTLER_MAX_TOKENS: "6", TOKENBUTLER_JSON: "yes" };
    const again = await run(
      [...task, "generate", "--ids", "my ids.json", "--model", "./model"],
      { ...taskOptions, env },
    );
    assert.equal(again.code, 0, again.stderr);
    const { timings: _timings, ...same } = JSON.parse(again.stdout);
    const { timings: _, ...first } = answer;
    assert.deepEqual(same, first);

    const scored = await run(["score", ...flags, "--prefill", "2"], options);
    assert.equal(scored.code, 0, scored.stderr);
    assert.match(scored.stdout, /^[^\n]+\n$/);
    const { nll, mean } = JSON.parse(scored.stdout);
    assert.equal(nll.length, 3);
    assert.ok(nll.every((value: number) => value > 0));
    assert.ok(Math.abs(mean - (nll[0] + nll[1] + nll[2]) / 3) < 1e-9);

    const wrong = await run([...task, "score", "--ids", "no such.json"], taskOptions);
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /cannot read "no such\.json": there is no such file/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a wrong flag says what to type, as the program was started", async () => {
  const { code, stderr } = await run(["score", "--frobnicate"]);
  assert.equal(code, 2);
  assert.ok(stderr.endsWith(`Try: ${ROOT}/run score --help\n`), stderr);
});

Deno.test("- in the place of a file is standard input", async () => {
  const child = start(["tokenize", "--text-file", "-", "--json"], { stdin: "piped" });
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode("Call me "));
  await writer.write(new TextEncoder().encode("Ishmael."));
  await writer.close();
  const { code, stdout } = await child.output();
  assert.equal(code, 0);
  const typed = await run(["tokenize", "--text", "Call me Ishmael.", "--json"]);
  assert.equal(new TextDecoder().decode(stdout), typed.stdout);
});

Deno.test("serve answers, and SIGTERM ends it with 0 while a stream runs", async () => {
  const server = start(["serve", "--port", "0", "--model", MODEL, "--drain-timeout", "1"]);
  const stderr = new Response(server.stderr).text();
  const url = await waitFor(server.stdout, /^listening on (\S+)\n/m);
  const stream = await fetch(`${url}/v1/completions`, {
    method: "POST",
    body: JSON.stringify({
      prompt: [1, 2, 3],
      max_tokens: 100_000,
      ignore_eos: true,
      stream: true,
    }),
  });
  assert.equal(stream.status, 200);
  const reader = stream.body?.getReader();
  await reader?.read();
  const before = performance.now();
  server.kill("SIGTERM");
  const { code } = await server.status;
  assert.ok(performance.now() - before < 5000);
  assert.equal(code, 0, await stderr);
  await stderr;
  await reader?.cancel().catch(() => {});
});

Deno.test("generate ends at once at a signal, while it loads and while it writes", async () => {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    const args = ["generate", "--ids", "[1]", "--model", MODEL, "--ignore-eos", "-n", "100000"];
    const child = start(args);
    const stderr = new Response(child.stderr).text();
    if (signal === "SIGTERM") await waitFor(child.stdout, /./);
    else await new Promise((resolve) => setTimeout(resolve, 500));
    const before = performance.now();
    child.kill(signal);
    assert.equal((await child.status).code, code, await stderr);
    assert.ok(performance.now() - before < 1000);
    await stderr;
    if (signal === "SIGINT") await child.stdout.cancel();
  }
});

Deno.test("chat ends with 0 at Ctrl-C, also when the key press arrives twice", async () => {
  const child = start(["chat", "--model", MODEL, "-n", "2"], { stdin: "piped" });
  const stderr = new Response(child.stderr).text();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode("hi\n"));
  await waitFor(child.stdout, /\n/);
  // The prompt follows the answer at once; there is nothing to see of it without a terminal.
  await new Promise((resolve) => setTimeout(resolve, 50));
  // As under `deno task`: from the terminal, and once more from the task runner.
  child.kill("SIGINT");
  await new Promise((resolve) => setTimeout(resolve, 2));
  try {
    child.kill("SIGINT");
  } catch {
    // It has ended already.
  }
  assert.equal((await child.status).code, 0, await stderr);
  await stderr;
  await writer.close().catch(() => {});
});
