import { assert } from "std-testing";
import { runCommand } from "../../src/cli/cli.ts";
import { chatCommand } from "../../src/cli/commands/chat.ts";
import { generateCommand } from "../../src/cli/commands/generate.ts";
import { scoreCommand } from "../../src/cli/commands/score.ts";
import { tokenizeCommand } from "../../src/cli/commands/tokenize.ts";
import { exitLimit } from "../../src/cli/interrupt.ts";
import { DEFAULT_CACHE } from "../../src/engine/types.ts";
import {
  BOS_ID,
  END_ID,
  FakeTokenizer,
  PADDED_VOCAB_SIZE,
  REPLY_TEXT,
  TURN_ID,
} from "../server/_fake.ts";
import { Exited, FakeIo } from "./_io.ts";
import { fakeSession } from "./_session.ts";

const bytes = (text: string) => [...new TextEncoder().encode(text)];

Deno.test("generate streams the text and ends it with a line end", async () => {
  const { engine, seen, open } = fakeSession();
  const io = new FakeIo();
  assert.equal(await runCommand(generateCommand(open), ["--prompt", "hi<|turn|>"], io), 0);
  assert.equal(io.out, `${REPLY_TEXT}\n`);
  assert.equal(io.err, "");
  assert.equal(seen.closed, 1);
  const [request] = engine.requests;
  assert.deepEqual(request?.promptIds, [BOS_ID, ...bytes("hi"), TURN_ID]);
  assert.deepEqual(request?.stopTokenIds, [END_ID]);
  assert.equal(request?.sampling.temperature, 0);
  // The prompt of four tokens leaves room for 252.
  assert.equal(request?.maxTokens, 252);
});

Deno.test("generate --json prints one line with ids, text, reason and timings", async () => {
  const { open } = fakeSession();
  const io = new FakeIo();
  assert.equal(await runCommand(generateCommand(open), ["--ids", "[5, 6]", "--json"], io), 0);
  assert.match(io.out, /^[^\n]+\n$/);
  const answer = JSON.parse(io.out);
  assert.deepEqual(Object.keys(answer), [
    "prompt_ids",
    "ids",
    "text",
    "finish_reason",
    "timings",
    "kv",
  ]);
  assert.equal(answer.kv, null);
  assert.deepEqual(answer.prompt_ids, [5, 6]);
  assert.deepEqual(answer.ids, [...bytes(REPLY_TEXT), END_ID]);
  assert.equal(answer.text, REPLY_TEXT);
  assert.equal(answer.finish_reason, "stop");
  assert.equal(answer.timings.prompt_n, 2);
  assert.equal(answer.timings.predicted_n, answer.ids.length);
});

Deno.test("generate passes its flags on", async () => {
  const { engine, seen, open } = fakeSession();
  const args = "--ids [1] --temperature 0.5 --top-k 4 --top-p .9 --min-p 0.1 --typical-p 0.8 " +
    "--repeat-penalty 1.1 --repeat-last-n -1 --frequency-penalty -0.5 --presence-penalty 0.25 " +
    "--logit-bias 3=2 --seed 7 --ignore-eos -n 3 --model m.gguf --context 99 --max-seqs 2 " +
    "--kv-type f32 --prefill-chunk 64 --kernel matvec=sg --kernel attention=plain";
  assert.equal(await runCommand(generateCommand(open), args.split(" "), new FakeIo()), 0);
  assert.deepEqual(seen.options, {
    modelPath: "m.gguf",
    contextLength: 99,
    maxSequences: 2,
    kvType: "f32",
    prefillChunk: 64,
    kernelOverrides: { matvec: "sg", attention: "plain" },
    ...DEFAULT_CACHE,
  });
  const [request] = engine.requests;
  assert.deepEqual(request?.sampling, {
    temperature: 0.5,
    topK: 4,
    topP: 0.9,
    minP: 0.1,
    typicalP: 0.8,
    repetitionPenalty: 1.1,
    repeatLastN: -1,
    frequencyPenalty: -0.5,
    presencePenalty: 0.25,
    logitBias: [[3, 2]],
    seed: 7,
  });
  assert.equal(request?.maxTokens, 3);
  assert.deepEqual(request?.stopTokenIds, []);
  assert.deepEqual(request?.bannedTokenIds, [END_ID]);
});

Deno.test("generate ends before a stop string, whole or in pieces", async () => {
  const { open } = fakeSession();
  for (const [stop, want] of [["wör", "Hello, "], ["😀", "Hello, wörld "], ["Hell", ""]] as const) {
    const io = new FakeIo();
    const args = ["--prompt", "a", "--stop", "nowhere", "--stop", stop, "--json"];
    assert.equal(await runCommand(generateCommand(open), args, io), 0);
    const answer = JSON.parse(io.out);
    assert.equal(answer.text, want);
    assert.equal(answer.finish_reason, "stop");
  }
});

Deno.test("generate reads a prompt from a file and cuts at --max-tokens", async () => {
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(path, "from a file\n");
    const { engine, open } = fakeSession();
    const io = new FakeIo();
    const args = ["--prompt-file", path, "--max-tokens", "9", "--json"];
    assert.equal(await runCommand(generateCommand(open), args, io), 0);
    assert.deepEqual(engine.requests[0]?.promptIds, [BOS_ID, ...bytes("from a file\n")]);
    // Nine bytes end in the middle of a character: it is dropped.
    assert.equal(JSON.parse(io.out).text, "Hello, w");
    assert.equal(JSON.parse(io.out).finish_reason, "length");
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("generate without a tokenizer works on ids alone", async () => {
  const { open } = fakeSession({ reply: [9, 8, 7] }, false);
  const io = new FakeIo();
  assert.equal(await runCommand(generateCommand(open), ["--ids", "[1]", "-n", "4"], io), 0);
  assert.equal(io.out, "9 8 7 9 \n");
  const json = new FakeIo();
  await runCommand(generateCommand(open), ["--ids", "[1]", "-n", "2", "--json"], json);
  assert.equal(JSON.parse(json.out).text, null);
  const ending = fakeSession({ reply: [9, END_ID] }, false);
  const stopped = new FakeIo();
  await runCommand(generateCommand(ending.open), ["--ids", "[1]", "--json"], stopped);
  assert.equal(JSON.parse(stopped.out).finish_reason, "stop");
  assert.deepEqual(JSON.parse(stopped.out).ids, [9, END_ID]);
  await assert.rejects(
    runCommand(generateCommand(open), ["--prompt", "a"], new FakeIo()),
    /no tokenizer: give token ids with --ids/,
  );
  await assert.rejects(
    runCommand(generateCommand(open), ["--ids", "[1]", "--stop", "a"], new FakeIo()),
    /no tokenizer: --stop/,
  );
});

Deno.test("generate refuses ids outside the vocabulary and prompts that do not fit", async () => {
  const { seen, open } = fakeSession({ contextLength: 4 });
  const run = (ids: string) =>
    runCommand(generateCommand(open), ["--ids", ids, "--json"], new FakeIo());
  await assert.rejects(
    run(`[1,${PADDED_VOCAB_SIZE}]`),
    new RegExp(`token id ${PADDED_VOCAB_SIZE} at index 1 .* 0 to ${PADDED_VOCAB_SIZE - 1}`),
  );
  await assert.rejects(run("[1,2,3,4]"), /prompt has 4 tokens, but the context holds 4/);
  assert.equal(await run("[1,2,3]"), 0);
  assert.equal(seen.closed, 3);
});

Deno.test("generate reports an engine's error and closes it", async () => {
  const { seen, open } = fakeSession({ failAt: () => 2 });
  await assert.rejects(
    runCommand(generateCommand(open), ["--prompt", "a"], new FakeIo()),
    /a kernel broke/,
  );
  assert.equal(seen.closed, 1);
});

Deno.test("score feeds the second half and counts each token with a successor", async () => {
  // The fake engine gives token t the log-probability -0.5 - (t mod 8) / 8.
  const ids = [10, 11, 12, 13, 14, 15, 16];
  const nllOf = (id: number) => 0.5 + (id % 8) / 8;
  for (const [prefill, first] of [[undefined, 3], ["1", 1], ["5", 5]] as const) {
    const { engine, open } = fakeSession({ reply: (request) => request.forcedIds ?? [] });
    const io = new FakeIo();
    const args = ["--ids", JSON.stringify(ids), "--json"];
    if (prefill !== undefined) args.push("--prefill", prefill);
    assert.equal(await runCommand(scoreCommand(open), args, io), 0);
    assert.match(io.out, /^[^\n]+\n$/);
    const { nll, mean, ...rest } = JSON.parse(io.out);
    assert.deepEqual(rest, { kv: null });
    assert.deepEqual(nll, ids.slice(first + 1).map(nllOf));
    assert.equal(mean, nll.reduce((sum: number, value: number) => sum + value, 0) / nll.length);
    const [request] = engine.requests;
    assert.deepEqual(request?.promptIds, ids.slice(0, first));
    assert.deepEqual(request?.forcedIds, ids.slice(first));
    assert.equal(request?.maxTokens, ids.length - first);
    assert.equal(request?.logprobs, 0);
  }
});

Deno.test("score takes the special tokens of a text file for plain text", async () => {
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(path, "ab</s>");
    const { engine, open } = fakeSession({ reply: (request) => request.forcedIds ?? [] });
    const io = new FakeIo();
    assert.equal(await runCommand(scoreCommand(open), ["--text-file", path], io), 0);
    const [request] = engine.requests;
    assert.deepEqual(
      [...request?.promptIds ?? [], ...request?.forcedIds ?? []],
      [BOS_ID, ...bytes("ab</s>")],
    );
    assert.match(io.out, /^mean negative log-likelihood \d+\.\d{6} over 3 tokens \(perplexity/);
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("score refuses what leaves nothing to score, and texts that do not fit", async () => {
  const { open } = fakeSession({
    contextLength: 4,
    reply: (request) => request.forcedIds ?? [],
  });
  const run = (...args: string[]) =>
    runCommand(scoreCommand(open), [...args, "--json"], new FakeIo());
  await assert.rejects(run("--ids", "[1,2]"), /2 tokens, at least 3 are needed/);
  await assert.rejects(
    run("--ids", "[1,2,3]", "--prefill", "2"),
    /3 tokens with 2 prefilled leave nothing to score, the largest is 1/,
  );
  await assert.rejects(run("--ids", "[1,2,3,4,5]"), /has 5 tokens, but the context holds 4/);
  assert.equal(await run("--ids", "[1,2,3,4]"), 0);
});

Deno.test("tokenize turns text into ids and ids into text", async () => {
  const command = tokenizeCommand(() =>
    Promise.resolve({ name: "fake", tokenizer: new FakeTokenizer(true) })
  );
  const run = async (...args: string[]) => {
    const io = new FakeIo();
    assert.equal(await runCommand(command, args, io), 0);
    assert.equal(io.err, "");
    return io.out;
  };
  assert.equal(await run("--text", "a</s>"), `${BOS_ID}\t"<s>"\n97\t"a"\n${END_ID}\t"</s>"\n`);
  assert.equal(await run("--text", "a", "--no-bos", "--json"), '{"ids":[97],"pieces":["a"]}\n');
  assert.equal(await run("--text", "", "--no-bos", "--json"), '{"ids":[],"pieces":[]}\n');
  assert.equal(await run("--ids", "[97,98]"), "ab\n");
  assert.equal(await run("--ids", "[97,98]", "--json"), '{"text":"ab"}\n');
  await assert.rejects(runCommand(command, ["--ids", "[9999]"], new FakeIo()), /outside the voc/);
});

Deno.test("chat keeps the conversation and takes its commands", async () => {
  const { engine, seen, open } = fakeSession();
  const lines = [
    "one",
    "",
    "two",
    "/reset",
    "three",
    "/system be brief",
    "four",
    "/nope",
    "/exit",
    "x",
  ];
  const io = new FakeIo({ lines });
  assert.equal(await runCommand(chatCommand(open), ["--system", "be nice"], io), 0);
  assert.equal(io.out, `${REPLY_TEXT}\n`.repeat(4));
  assert.match(io.err, /Unknown command \/nope/);
  const texts = engine.requests.map(({ promptIds }) =>
    new FakeTokenizer().decode(promptIds).split("<|turn|>").slice(1)
  );
  assert.deepEqual(texts, [
    ["system:be nice", "user:one", "assistant:"],
    ["system:be nice", "user:one", `assistant:${REPLY_TEXT}`, "user:two", "assistant:"],
    ["system:be nice", "user:three", "assistant:"],
    ["system:be brief", "user:four", "assistant:"],
  ]);
  assert.equal(engine.requests[0]?.sampling.temperature, 0.7);
  assert.equal(seen.closed, 1);
});

Deno.test("chat stops the answer at Ctrl-C, and the program at the next one", async () => {
  const { seen, open } = fakeSession({ stepMs: 2 });
  let presses = 0;
  const io = new FakeIo({
    lines: (async function* () {
      yield "one";
      // The prompt is there again: this Ctrl-C ends the program.
      setTimeout(() => io.interrupt("SIGINT"), 5);
      await new Promise(() => {});
    })(),
    onOut(self) {
      if (presses++ === 3) self.interrupt("SIGINT");
    },
  });
  assert.equal(await runCommand(chatCommand(open), ["--ignore-eos"], io), 0);
  assert.match(io.err, /\(stopped\)/);
  assert.ok(io.out.length < REPLY_TEXT.length, io.out);
  assert.equal(seen.closed, 1);
});

Deno.test("chat ends at the second SIGTERM though the answer does not", async () => {
  const { engine, open } = fakeSession({ stepMs: 2 });
  const cancel = engine.cancel.bind(engine);
  const asked: string[] = [];
  engine.cancel = (id) => void asked.push(id);
  const codes: number[] = [];
  const io = new FakeIo({
    lines: ["one"],
    onOut(self) {
      if (asked.length > 0 || self.out.length < 3) return;
      self.interrupt("SIGTERM");
      try {
        self.interrupt("SIGTERM");
      } catch (error) {
        if (!(error instanceof Exited)) throw error;
        codes.push(error.code);
      }
      for (const id of asked) cancel(id);
    },
  });
  assert.equal(await runCommand(chatCommand(open), ["--ignore-eos"], io), 0);
  assert.deepEqual(codes, [0]);
});

Deno.test("exitLimit() ends the process in time, unless the command ended first", async () => {
  const io = new FakeIo();
  const left = Promise.withResolvers<number>();
  let exits = 0;
  io.exit = (code) => {
    exits++;
    left.resolve(code);
    return undefined as never;
  };
  exitLimit(io, 7, 5)[Symbol.dispose]();
  using _limit = exitLimit(io, 3, 20);
  assert.equal(await left.promise, 3);
  assert.equal(exits, 1);
});

Deno.test("chat survives a template that refuses and a context that is full", async () => {
  const { open } = fakeSession({ contextLength: 48 });
  const io = new FakeIo({ lines: ["RAISE", "x".repeat(60), "ok"] });
  assert.equal(await runCommand(chatCommand(open), [], io), 0);
  assert.match(io.err, /roles must alternate/);
  assert.match(io.err, /The conversation has \d+ tokens, but the context holds 48/);
  assert.equal(io.out, `${REPLY_TEXT}\n`);
});

Deno.test("chat says what cut an answer", async () => {
  for (
    const [length, args, said] of [
      [256, ["-n", "2"], "(cut: --max-tokens 2)\n"],
      [32, ["-n", "200", "--ignore-eos"], "(cut: no room for more tokens)\n"],
      [32, ["--ignore-eos"], "(cut: no room for more tokens)\n"],
      [256, [], ""],
    ] as const
  ) {
    const { open } = fakeSession({ contextLength: length });
    const io = new FakeIo({ lines: ["a"] });
    assert.equal(await runCommand(chatCommand(open), [...args], io), 0);
    assert.equal(io.err.match(/\(cut.*\n/)?.[0] ?? "", said, args.join(" "));
  }
});

Deno.test("chat refuses a model without a template", async () => {
  const { open } = fakeSession({}, false);
  await assert.rejects(runCommand(chatCommand(open), [], new FakeIo()), /no chat template/);
});
