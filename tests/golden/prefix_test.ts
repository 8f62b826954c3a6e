/**
 * A prompt that begins as an earlier one did gives what it gives when all of it is prefilled: under
 * every policy, wherever the rows are, and after a restart.
 */
import type { KvRequest } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS, type GenerateRequest, type TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine, type TestEngine } from "./_engine.ts";
import { figure } from "./_golden.ts";
import {
  makeCalibration,
  makePredictor,
  NLL_BOUND,
  offloadedModel,
  onDevice,
  textIds,
  worst,
} from "./_offload.ts";
import { type Answer, generate, scoreByEcho } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();
const PATH = await offloadedModel();

const NUM_PROMPT = 150;
const TEXT = textIds(210, 320);
/** Begins like {@linkcode TEXT}, for three blocks and four tokens. */
const OTHER = [...TEXT.slice(0, 100), ...textIds(60, 320, 99)];

function open(tiers: Partial<TierOptions>, contextLength = 256, maxSequences = 1) {
  return openEngine(PATH, {
    contextLength,
    maxSequences,
    calibration: CALIBRATION,
    predictor: PREDICTOR,
    tiers: { ...DEFAULT_TIERS, ...tiers },
  });
}

/** Feeds the end of a text as decoding would. */
async function force(
  { engine }: TestEngine,
  text: readonly number[],
  numPrompt: number,
  more: Partial<GenerateRequest>,
): Promise<{ nll: number[]; answer: Answer }> {
  const forcedIds = text.slice(numPrompt);
  const answer = await generate(engine, text.slice(0, numPrompt), forcedIds.length, {
    forcedIds,
    logprobs: 0,
    ...more,
  });
  assert.equal(answer.cachedTokens + answer.promptTokens, numPrompt);
  return { nll: answer.logprobs.map((entry) => -entry!.logprob), answer };
}

/** Asserts that a text gives what it should, with so many tokens found. */
async function holds(
  opened: TestEngine,
  more: Partial<GenerateRequest>,
  wanted: readonly number[],
  cached: number,
): Promise<void> {
  const { nll, answer } = await force(opened, TEXT, NUM_PROMPT, more);
  assert.equal(answer.cachedTokens, cached);
  const off = worst(nll, wanted);
  assert.ok(off <= NLL_BOUND, `NLL is off by ${figure(off)}`);
  opened.parts.kv.store.checkInvariants();
}

async function fresh(more: Partial<GenerateRequest>): Promise<number[]> {
  await using opened = await open({ prefixCache: false });
  return (await force(opened, TEXT, NUM_PROMPT, more)).nll;
}

/** What is written to the log meanwhile. */
async function warningsOf(work: () => Promise<void>): Promise<string[]> {
  const { error } = console;
  const lines: string[] = [];
  console.error = (line: unknown) => void lines.push(String(line));
  try {
    await work();
  } finally {
    console.error = error;
  }
  return lines;
}

const FEW: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 } };

Deno.test("a prefix that is used again gives what a fresh prefill gives", async (t) => {
  const disk = await Deno.makeTempDir();
  for (const policy of ["dense", "streaming", "oracle", "quest", "loki", "tokenbutler"] as const) {
    const kv: KvRequest = { ...FEW, policy };
    const wanted = await fresh({ kv });
    for (
      const [name, tiers] of Object.entries(
        {
          "on the device": {},
          "on the device, prefixes on disk": { hostBytes: 0, diskDir: disk },
          "below the device": onDevice(4),
          "below the device, on disk": onDevice(4, { hostBytes: 0, diskDir: disk }),
        } satisfies Record<string, Partial<TierOptions>>,
      )
    ) {
      await t.step(`${policy}, ${name}`, async () => {
        await using opened = await open(tiers);
        // Rows of a prompt are the same under every policy.
        const first = await force(opened, OTHER, 160, { kv: { ...FEW, policy: "dense" } });
        assert.equal(first.answer.cachedTokens, 0);
        await holds(opened, { kv }, wanted, 96);
        // One token is always left to compute.
        await holds(opened, { kv }, wanted, 128);
        // Whether rows may be used does not depend on the policy that uses them.
        if (policy !== "dense" && policy !== "loki") return;
        await holds(opened, { kv, cachePrompt: false }, wanted, 0);
        await holds(opened, { kv, cacheSalt: "x" }, wanted, 0);
      });
    }
  }
  await t.step("the folder is empty at the end", () => {
    assert.deepEqual([...Deno.readDirSync(disk)], []);
  });
  await Deno.remove(disk, { recursive: true });
});

Deno.test("prefixes outlive the engine, and what is damaged is ignored", async (t) => {
  const folder = await Deno.makeTempDir();
  const kv: KvRequest = { ...FEW, policy: "loki" };
  const wanted = await fresh({ kv });
  const files = () => [...Deno.readDirSync(folder)].map(({ name }) => `${folder}/${name}`);
  const keys: string[] = [];
  {
    await using opened = await open({ prefixDir: folder });
    await force(opened, TEXT, NUM_PROMPT, { kv: { ...FEW, policy: "loki" } });
    keys.push(...opened.parts.kv.store.prefixKeys(TEXT.slice(0, NUM_PROMPT)));
    await opened.engine.settle();
    assert.equal(files().length, 4);
  }
  for (const tiers of [{}, onDevice(4), { hostBytes: 0 }]) {
    await t.step(`after a restart, ${JSON.stringify(tiers)}`, async () => {
      const warnings = await warningsOf(async () => {
        await using opened = await open({ ...tiers, prefixDir: folder });
        await holds(opened, { kv }, wanted, "hostBytes" in tiers ? 0 : 128);
      });
      assert.deepEqual(warnings, []);
    });
  }
  await t.step("it saves in idle turns", async () => {
    await using opened = await open({ prefixDir: folder });
    await force(opened, OTHER, 160, { kv: FEW });
    for (let waits = 0; files().length < 6; waits++) {
      assert.ok(waits < 200, "nothing is saved");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  });
  await t.step("another model's block", async () => {
    const foreign = await Deno.makeTempDir();
    {
      await using opened = await open({ prefixDir: foreign }, 200);
      await force(opened, TEXT.slice(0, 40), 39, {});
    }
    const [name] = [...Deno.readDirSync(foreign)].map(({ name }) => name);
    assert.ok(!keys.includes(name!.slice(0, 64)), "models share a key");
    await Deno.copyFile(`${foreign}/${name}`, `${folder}/${keys[3]}.kv`);
    await Deno.remove(foreign, { recursive: true });
    const warnings = await warningsOf(async () => {
      await using opened = await open({ prefixDir: folder });
      await holds(opened, { kv }, wanted, 96);
    });
    assert.equal(warnings.length, 1);
    assert.match(warnings[0]!, /ignored: it is damaged, of another version, or of another model/);
  });
  await t.step("a flipped bit", async () => {
    const path = `${folder}/${keys[1]}.kv`;
    const bytes = await Deno.readFile(path);
    bytes[bytes.length >> 1]! ^= 1;
    await Deno.writeFile(path, bytes);
    const warnings = await warningsOf(async () => {
      await using opened = await open({ prefixDir: folder });
      await holds(opened, { kv }, wanted, 32);
      await holds(opened, { kv }, wanted, 128);
    });
    assert.equal(warnings.length, 1);
    assert.match(warnings[0]!, /the saved prefix block .* is ignored: wrong checksum/);
  });
  await t.step("what was damaged was written again", async () => {
    const warnings = await warningsOf(async () => {
      await using opened = await open({ prefixDir: folder });
      await holds(opened, { kv }, wanted, 128);
    });
    assert.deepEqual(warnings, []);
  });
  await Deno.remove(folder, { recursive: true });
});

Deno.test("prefix blocks that were damaged on disk are prefilled anew", async (t) => {
  const kv: KvRequest = { ...FEW, policy: "loki" };
  const wanted = await fresh({ kv });
  for (const [name, tiers] of Object.entries({ device: {}, below: onDevice(4) })) {
    await t.step(name, async () => {
      const disk = await Deno.makeTempDir();
      await using opened = await open({ ...tiers, hostBytes: 0, diskDir: disk });
      await force(opened, OTHER, 160, { kv: FEW });
      for (const { name: folder } of Deno.readDirSync(disk)) {
        for (const { name: file } of Deno.readDirSync(`${disk}/${folder}`)) {
          if (!file.endsWith(".kv")) continue;
          using handle = Deno.openSync(`${disk}/${folder}/${file}`, { write: true });
          const { size } = handle.statSync();
          // In the middle of every layer's keys and values.
          for (let at = 2000; at < size; at += 1000) {
            handle.seekSync(at, Deno.SeekMode.Start);
            handle.writeSync(Uint8Array.of(0xa5, 0x5a, 0xa5));
          }
        }
      }
      await holds(opened, { kv }, wanted, 0);
      // Each damaged block makes way when it is met.
      await holds(opened, { kv }, wanted, 32);
      await opened.engine.close();
      await Deno.remove(disk, { recursive: true });
    });
  }
});

Deno.test("an answer that attended to everything is a prefix too", async (t) => {
  const prompt = TEXT.slice(0, 70);
  for (
    const [policy, tiers, cached] of [
      ["dense", {}, 128],
      ["dense", onDevice(4), 128],
      // The answer's rows depend on what was selected.
      ["streaming", {}, 64],
      ["loki", onDevice(4), 64],
      ["tokenbutler", onDevice(4), 64],
      ["h2o", {}, 64],
    ] as const
  ) {
    await t.step(`${policy} ${JSON.stringify(tiers)}`, async () => {
      await using opened = await open(tiers);
      const { engine } = opened;
      const { ids } = await generate(engine, prompt, 75, { kv: { ...FEW, policy } });
      const next = [...prompt, ...ids, 5, 6];
      const more = { kv: { ...FEW, policy: "dense" } as const, logprobs: 0 };
      const again = await generate(engine, next, 8, more);
      assert.equal(again.cachedTokens, cached);
      const anew = await generate(engine, next, 8, { ...more, cachePrompt: false });
      assert.equal(anew.cachedTokens, 0);
      assert.deepEqual(again.ids, anew.ids);
      const nll = (answer: Answer) => answer.logprobs.map((entry) => -entry!.logprob);
      assert.ok(worst(nll(again), nll(anew)) <= NLL_BOUND);
    });
  }
});

Deno.test("statistics of attention and scores of a prompt are not taken from a prefix", async () => {
  await using opened = await open({});
  const { engine } = opened;
  const echo = await scoreByEcho(engine, TEXT);
  assert.ok(worst(await scoreByEcho(engine, TEXT), echo) === 0);
  for (const policy of ["h2o", "snapkv"] as const) {
    const kv: KvRequest = { ...FEW, policy };
    await holds(opened, { kv }, await fresh({ kv }), 0);
  }
});

Deno.test("sequences that share a prefix and are parked give what they give alone", async (t) => {
  const texts = [0, 1, 2].map((
    n,
  ) => [...TEXT.slice(0, 64 + 8 * n), ...textIds(60, 320 - n, n + 1)]);
  for (
    const [policy, tiers] of [
      ["dense", onDevice(6)],
      ["loki", onDevice(6)],
      ["tokenbutler", onDevice(4)],
      ["quest", onDevice(4)],
    ] as const
  ) {
    await t.step(`${policy} ${JSON.stringify(tiers)}`, async () => {
      const kv: KvRequest = { ...FEW, policy };
      const alone: number[][] = [];
      {
        await using opened = await open({ prefixCache: false });
        for (const text of texts) alone.push((await force(opened, text, 90, { kv })).nll);
      }
      await using opened = await open(tiers, 256, 3);
      for (let round = 0; round < 2; round++) {
        const got = await Promise.all(texts.map((text) => force(opened, text, 90, { kv })));
        got.forEach(({ nll, answer }, i) => {
          const off = worst(nll, alone[i]!);
          assert.ok(off <= NLL_BOUND, `sequence ${i} is off by ${figure(off)}`);
          if (round > 0) assert.equal(answer.cachedTokens, 64);
        });
      }
      opened.parts.kv.store.checkInvariants();
      assert.equal(opened.parts.kv.store.usage.numBlocks, 0);
    });
  }
});
