/** Evaluations that ask questions, over a scripted engine. */
import { runCommand } from "../../src/cli/cli.ts";
import { rulerCommand } from "../../src/cli/commands/eval/ruler.ts";
import { longbenchCommand } from "../../src/cli/commands/eval/longbench.ts";
import { runAll } from "../../src/cli/commands/eval/answers.ts";
import type { GenerateRequest } from "../../src/engine/types.ts";
import { END_ID } from "../server/_fake.ts";
import { withFiles } from "../_model_files.ts";
import { FakeIo } from "./_io.ts";
import { fakeSession } from "./_session.ts";
import { assert } from "std-testing";

const textOf = ({ promptIds }: GenerateRequest) =>
  new TextDecoder().decode(Uint8Array.from(promptIds.filter((id) => id < 256)));

const said = (text: string) => [...new TextEncoder().encode(text), END_ID];

/** Finds needles; with few rows only those of even numbers; never tells frequent words. */
function reply(request: GenerateRequest): number[] {
  const prompt = textOf(request);
  const key = prompt.match(/number of (\S+) is$/)?.[1];
  const value = prompt.match(new RegExp(`number of ${key} is (\\d+)`))?.[1];
  if (value === undefined) return said(" nothing");
  const few = request.kv?.policy === "streaming";
  return said(few && Number(value) % 2 === 1 ? " 5" : ` ${value}.`);
}

Deno.test("eval ruler: dense first, others where it is good enough, nothing asked twice", async () => {
  await withFiles({}, async (folder) => {
    const line = "--tasks niah_single_2,fwe --tokens 800 --samples 3 --policies oracle,streaming " +
      `--rows 64,0.25 --batch 2 --out ${folder}/ruler.json --svg ${folder}/ruler.svg`;
    const { engine, open, seen } = fakeSession({ reply, contextLength: 800 });
    const io = new FakeIo();
    assert.equal(await runCommand(rulerCommand(open), line.split(" "), io), 0, io.err);
    assert.equal(seen.closed, 1);
    assert.match(io.out, /800 tokens: score \(exact answers of 3\)/);
    assert.match(io.out, /64 rows +dense +oracle +streaming/);
    assert.match(io.out, /200 rows +dense +oracle +streaming/);
    assert.match(io.out, /niah_single_2 +100\.0 \(3\) +100\.0 \(3\) +\d+\.\d \([0-2]\)/);
    assert.match(io.out, /fwe +0\.0 \(0\) +- +-/);
    assert.match(io.out, /1 compared +100\.0 \(3\) +100\.0 \(3\)/);
    // Dense over both tasks, then two policies with two numbers of rows on one.
    assert.equal(engine.requests.length, 6 + 12);
    assert.ok(engine.requests.slice(0, 6).every(({ kv }) => kv?.policy === "dense"));
    assert.deepEqual(engine.requests.at(-1)!.kv, { policy: "streaming", sinks: 4, window: 196 });
    const oracle = engine.requests.find(({ kv }) => kv?.policy === "oracle")!;
    assert.deepEqual(oracle.kv, {
      policy: "oracle",
      sinks: 4,
      window: 32,
      budget: { rows: 28 },
      interval: 1,
    });
    for (const { promptIds, maxTokens, sampling, stopTokenIds } of engine.requests) {
      assert.ok(promptIds.length + maxTokens <= 800);
      assert.ok(promptIds.length + maxTokens > 680);
      assert.equal(sampling.temperature, 0);
      assert.ok(stopTokenIds.includes(END_ID));
    }
    // Twice " 1234567".
    assert.equal(engine.requests.find(({ kv }) => kv?.policy === "oracle")!.maxTokens, 16);
    assert.match(await Deno.readTextFile(`${folder}/ruler.svg`), /^<svg/);
    // The same again: all is there; one more sample is another evaluation.
    const again = fakeSession({ reply, contextLength: 2048 });
    const io2 = new FakeIo();
    await runCommand(rulerCommand(again.open), [...line.split(" "), "--json"], io2);
    assert.equal(again.engine.requests.length, 0);
    const { origin, figures } = JSON.parse(io2.out);
    assert.equal(figures.length, 2 + 2 * 2 * 1);
    assert.equal(figures[0].exact, 3);
    assert.equal(origin.seed, 0);
    // The engine scores rows by the keys that were asked for.
    const short = fakeSession({ reply, contextLength: 800 });
    const keys = "--tasks niah_single_2 --tokens 800 --samples 1 --importance-keys int8";
    await runCommand(rulerCommand(short.open), keys.split(" "), new FakeIo());
    assert.equal(short.seen.options!.importanceKeys, "int8");
    assert.equal(again.seen.options!.importanceKeys, "f16");
    // What is missing is asked.
    const file = JSON.parse(await Deno.readTextFile(`${folder}/ruler.json`));
    file.figures[0].answers[1] = null;
    file.figures.at(-1).answers.pop();
    await Deno.writeTextFile(`${folder}/ruler.json`, JSON.stringify(file));
    await runCommand(rulerCommand(again.open), line.split(" "), new FakeIo());
    assert.equal(again.engine.requests.length, 2);
    // A policy that an earlier run asked less is not compared over all tasks.
    const less = JSON.parse(await Deno.readTextFile(`${folder}/ruler.json`));
    const own = less.figures.find((of: { policy: string; total: number }) =>
      of.policy === "oracle" && of.total === 64
    );
    less.figures.push({ ...own, task: "fwe" });
    await Deno.writeTextFile(`${folder}/ruler.json`, JSON.stringify(less));
    const io4 = new FakeIo();
    await runCommand(rulerCommand(again.open), line.split(" "), io4);
    assert.match(io4.out, /2 compared +50\.0 \(3\) +100\.0 \(6\) +-\n.*1 compared +100\.0 \(3\)/s);
    assert.equal(again.engine.requests.length, 2);
    // What an earlier run did not come to the end of is not told.
    file.figures.push({ ...file.figures.at(-1), policy: "loki" });
    await Deno.writeTextFile(`${folder}/ruler.json`, JSON.stringify(file));
    const io3 = new FakeIo();
    await runCommand(rulerCommand(again.open), line.split(" "), io3);
    assert.doesNotMatch(io3.out, /loki/);
  });
});

Deno.test("eval ruler refuses what cannot be, and says why", async () => {
  const cases: [string, RegExp][] = [
    ["--tasks nonsense", /wanted some of niah_single_1, /],
    ["--rows 20", /--rows must be at least 36 at 1024 tokens/],
    ["--rows x", /--rows wants counts \(128\) or shares/],
    ["--tokens 1,x", /--tokens: wanted whole numbers below 10 million .*, got "1,x"/],
    ["--tokens 4096", /memory allows 2048 tokens/],
    ["--tokens 256 --rows 64 --tasks fwe", /fwe: no sample fits 256 tokens/],
    ["--text /none", /there is no such file/],
  ];
  for (const [line, message] of cases) {
    const { open } = fakeSession({ reply, contextLength: 2048 });
    await assert.rejects(
      runCommand(rulerCommand(open), line.split(" "), new FakeIo()),
      message,
      line,
    );
  }
  const { open } = fakeSession({}, false);
  await assert.rejects(
    runCommand(rulerCommand(open), ["--tokens", "256", "--rows", "64"], new FakeIo()),
    /has no tokenizer/,
  );
  const failing = fakeSession({ reply, contextLength: 2048, failAt: () => 0 });
  await assert.rejects(
    runCommand(rulerCommand(failing.open), ["--samples", "2", "--tasks", "vt"], new FakeIo()),
    /a kernel broke/,
  );
  assert.equal(failing.seen.closed, 1);
});

const sample = (input: string, context: string, answers: string[], classes?: string[]) =>
  JSON.stringify({
    input,
    context,
    answers,
    length: 1,
    dataset: "x",
    ...(classes === undefined ? {} : { all_classes: classes }),
  });

Deno.test("eval longbench: metrics of each data set, over what is too long without its middle", async () => {
  const long = `first ${"x ".repeat(1500)}last`;
  const files = {
    "hotpotqa.jsonl": `${sample("Who?", "It was Ann.", ["Ann", "Bob"])}\n\n${
      sample("Who else?", long, ["Bob"])
    }\n`,
    "trec.jsonl": sample("Type:", "Type: A", ["City"], ["City", "Country"]),
    "other.txt": "not a data set",
  };
  await withFiles(files, async (folder) => {
    const reply = (request: GenerateRequest) => {
      if (textOf(request).includes("Type:")) return said(" City\nType: Country");
      return said(request.kv?.policy === "streaming" ? "I do not know" : "The Ann.");
    };
    const line = `--data ${folder} --tokens 1024 --rows 64 --policies oracle,streaming ` +
      `--out ${folder}/out.json --svg ${folder}/out.svg`;
    const { engine, open } = fakeSession({ reply, contextLength: 1024 });
    const io = new FakeIo();
    assert.equal(await runCommand(longbenchCommand(open), line.split(" "), io), 0);
    assert.match(
      io.out,
      /hotpotqa, 2 samples\n +dense +50\.0\n +oracle, 64 rows +50\.0\n +streaming, 64 rows +0\.0/,
    );
    assert.match(io.out, /trec, 1 samples\n +dense +100\.0/);
    assert.match(await Deno.readTextFile(`${folder}/out.svg`), /Score of hotpotqa.*Score of trec/s);
    assert.equal(engine.requests.length, 9);
    for (const { promptIds, maxTokens } of engine.requests) {
      assert.ok(promptIds.length + maxTokens <= 1024);
    }
    const cut = textOf(engine.requests.find((request) => textOf(request).includes("Who else?"))!);
    assert.match(cut, /first x x/);
    assert.match(cut, /x x last/);
    // Examples go on as text: no turn of a chat.
    const plain = engine.requests.find((request) => textOf(request).includes("Type:"))!;
    assert.match(textOf(plain), /^Each question has a type.*Type: A\nType:$/s);
    assert.equal(plain.maxTokens, 64);
    const again = fakeSession({ reply, contextLength: 1024 });
    await runCommand(longbenchCommand(again.open), line.split(" "), new FakeIo());
    assert.equal(again.engine.requests.length, 0);
    const file = JSON.parse(await Deno.readTextFile(`${folder}/out.json`));
    file.figures.push({ ...file.figures[1], policy: "loki", answers: [null] });
    await Deno.writeTextFile(`${folder}/out.json`, JSON.stringify(file));
    const json = new FakeIo();
    await runCommand(longbenchCommand(again.open), [...line.split(" "), "--json"], json);
    const told = JSON.parse(json.out).figures.map(({ policy }: { policy: string }) => policy);
    assert.deepEqual([told.length, told.includes("loki")], [6, false]);
    // Other data of the same name.
    await Deno.writeTextFile(`${folder}/trec.jsonl`, sample("Type:", "Type: B", ["City"]));
    await assert.rejects(
      runCommand(longbenchCommand(again.open), line.split(" "), new FakeIo()),
      /has figures of another trec with the same name/,
    );

    const bad: [string, RegExp][] = [
      ["", /--data is needed/],
      ["--data /none", /has no file of a known data set/],
      [`--data ${folder} --datasets qasper`, /there is no such file/],
      [`--data ${folder} --datasets nonsense`, /wanted some of narrativeqa/],
      [`--data ${folder} --rows 8`, /--rows must be at least 36/],
    ];
    for (const [line, message] of bad) {
      const args = line === "" ? [] : line.split(" ");
      await assert.rejects(runCommand(longbenchCommand(open), args, new FakeIo()), message, line);
    }
  });
  await withFiles({ "qasper.jsonl": `${sample("", "", ["x"])}\n{"input": 1}` }, async (folder) => {
    const run = runCommand(longbenchCommand(fakeSession().open), ["--data", folder], new FakeIo());
    await assert.rejects(run, /line 2 of .*qasper\.jsonl is no sample/);
  });
});

Deno.test("jobs run in their order, so many at a time; after a failure none begins", async () => {
  const began: number[] = [];
  let running = 0;
  const job = async (index: number) => {
    began.push(index);
    assert.ok(++running <= 3);
    await new Promise((resolve) => setTimeout(resolve, 1));
    running--;
    if (index === 4) throw new Error("four");
  };
  await runAll([0, 1, 2], 3, job);
  assert.deepEqual(began.splice(0), [0, 1, 2]);
  await assert.rejects(runAll([3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 2, job), /four/);
  assert.ok(began.length < 6);
});
