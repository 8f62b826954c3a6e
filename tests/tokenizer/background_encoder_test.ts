import { assert } from "std-testing";
import { BackgroundEncoder, EncodeError } from "../../src/tokenizer/background_encoder.ts";
import { DATA, DEFAULT_PATH, openTokenizer } from "./_sources.ts";

const PLAIN = { parseSpecial: false, addBos: false };
const SPECIAL = { parseSpecial: true, addBos: true };
const LONG = "Ein längerer Text, 世界! 👩‍👩‍👧 <s> <|eot_id|> ".repeat(200);

for (const path of [DEFAULT_PATH, `${DATA}/spm-llama.gguf`, "tests/data/tiny/llama31-bf16"]) {
  Deno.test(`a background encoder gives the ids of the tokenizer: ${path}`, async () => {
    const tokenizer = await openTokenizer(path);
    const encoder = new BackgroundEncoder(path, tokenizer);
    try {
      encoder.start();
      const parts = [
        { text: LONG, ...PLAIN },
        { text: "", ...PLAIN },
        { text: LONG, ...SPECIAL },
      ];
      assert.deepEqual(
        await encoder.encode(parts),
        parts.map((part) => tokenizer.encode(part.text, part)),
      );
    } finally {
      encoder.close();
    }
  });
}

Deno.test("a background encoder leaves long texts to its worker and takes short ones itself", async () => {
  const tokenizer = await openTokenizer(DEFAULT_PATH);
  let numHere = 0;
  const watched = Object.create(tokenizer, {
    encode: {
      value: (text: string, options: typeof PLAIN) => {
        if (text.length > 100) numHere++;
        return tokenizer.encode(text, options);
      },
    },
  });
  const encoder = new BackgroundEncoder(DEFAULT_PATH, watched);
  try {
    const long = encoder.encode([{ text: "x ".repeat(50_000), ...PLAIN }]);
    let isLongDone = false;
    long.then(() => isLongDone = true);
    const [ids] = await encoder.encode([{ text: "short".repeat(40), ...PLAIN }]);
    assert.deepEqual(ids, tokenizer.encode("short".repeat(40), PLAIN));
    assert.equal(numHere, 1);
    assert.ok(!isLongDone);
    await long;
    assert.equal(numHere, 1);
  } finally {
    encoder.close();
  }
});

Deno.test("a background encoder leaves out texts that nobody wants any more", async () => {
  const tokenizer = await openTokenizer(DEFAULT_PATH);
  const encoder = new BackgroundEncoder(DEFAULT_PATH, tokenizer, { maxWaiting: 3 });
  const gone = new AbortController();
  const parts = [{ text: LONG, ...PLAIN }];
  try {
    const first = encoder.encode(parts);
    const left = encoder.encode([{ text: "aB".repeat(2_000_000), ...PLAIN }], gone.signal);
    const last = encoder.encode(parts, new AbortController().signal);
    gone.abort(new Error("gone"));
    await assert.rejects(left, /gone/);
    assert.deepEqual(await last, await first);
    // Their places are free again.
    await Promise.all([1, 2, 3].map(() => encoder.encode(parts)));
  } finally {
    encoder.close();
  }
});

Deno.test("a background encoder ends a text that takes too long, and encodes the next", async () => {
  const tokenizer = await openTokenizer(DEFAULT_PATH);
  const text = "aB".repeat(400_000);
  const encoder = new BackgroundEncoder(DEFAULT_PATH, tokenizer, {
    deadlineMs: 1,
    deadlineMsPerMillion: 1,
  });
  try {
    await assert.rejects(encoder.encode([{ text, ...PLAIN }]), { code: "timeout" });
    const short = [{ text: "fine", ...PLAIN }];
    assert.deepEqual(await encoder.encode(short), [tokenizer.encode("fine", PLAIN)]);
  } finally {
    encoder.close();
  }
  const patient = new BackgroundEncoder(DEFAULT_PATH, tokenizer, { maxWaiting: 1 });
  const parts = [{ text: LONG, ...PLAIN }];
  const first = patient.encode(parts);
  await assert.rejects(patient.encode(parts), { code: "busy" });
  assert.deepEqual(await first, [tokenizer.encode(LONG, PLAIN)]);
  assert.equal((await patient.encode(parts)).length, 1);
  patient.close();
  await assert.rejects(patient.encode(parts), EncodeError);
});

Deno.test("a background encoder notices that the model was replaced or is gone", async () => {
  const tokenizer = await openTokenizer(DEFAULT_PATH);
  for (
    const [path, why] of [[`${DATA}/spm-llama.gguf`, /replaced/], [
      "nowhere.gguf",
      /nowhere/,
    ]] as const
  ) {
    const encoder = new BackgroundEncoder(path, tokenizer);
    encoder.start();
    await assert.rejects(encoder.encode([{ text: LONG, ...PLAIN }]), why);
    encoder.close();
  }
});

Deno.test("a short text cannot hold up whoever serves, whatever patterns a model file brings", async () => {
  const path = await Deno.makeTempDir();
  try {
    for await (const { name } of Deno.readDir("tests/data/tiny/llama31-bf16")) {
      await Deno.copyFile(`tests/data/tiny/llama31-bf16/${name}`, `${path}/${name}`);
    }
    const json = JSON.parse(await Deno.readTextFile(`${path}/tokenizer.json`));
    // Each letter more doubles its time.
    json.pre_tokenizer.pretokenizers[0].pattern.Regex = "(x+x+)+y";
    await Deno.writeTextFile(`${path}/tokenizer.json`, JSON.stringify(json));
    const tokenizer = await openTokenizer(path);
    assert.ok(tokenizer.hasUnknownPatterns);
    const encoder = new BackgroundEncoder(path, tokenizer, { deadlineMs: 300 });
    try {
      let longestMs = 0;
      let last = performance.now();
      const timer = setInterval(() => {
        longestMs = Math.max(longestMs, performance.now() - last);
        last = performance.now();
      }, 5);
      const evil = encoder.encode([{ text: "x".repeat(60), ...PLAIN }]);
      await assert.rejects(evil, { code: "timeout" });
      clearInterval(timer);
      assert.ok(longestMs > 0 && longestMs < 250, `${longestMs} ms`);
      const parts = [{ text: "fine", ...PLAIN }];
      assert.deepEqual(await encoder.encode(parts), [tokenizer.encode("fine", PLAIN)]);
    } finally {
      encoder.close();
    }
  } finally {
    await Deno.remove(path, { recursive: true });
  }
});

Deno.test("texts are cut by patterns of the file only where those are not known", async () => {
  for (const path of [DEFAULT_PATH, `${DATA}/spm-llama.gguf`, "tests/data/tiny/llama31-bf16"]) {
    assert.equal((await openTokenizer(path)).hasUnknownPatterns, false, path);
  }
});
