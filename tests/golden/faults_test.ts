/**
 * Faults below the device, through the whole engine: the request that meets one gets an error that
 * says what it is, the one beside it gives what it gives alone, nothing stays behind, and the next
 * request is served.
 */
import { type KvRequest, type PolicyName, resolveKv } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS, type EngineErrorData, type TierOptions } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { sizesOf } from "../../src/kv/store/sizes.ts";
import { MemoryFiles } from "../kv/store/_memory_files.ts";
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
import { type Answer, request, run } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();
const PATH = await offloadedModel();

/** Sinks, window and two blocks of each layer: two sequences fit eight blocks. */
const SMALL: KvRequest = { sinks: 8, window: 16, budget: { rows: 16 }, denseLayers: 0 };

/**
 * The same under a policy. Nothing is predicted for the first layer; what h2o keeps it has in its
 * slots, and reads nothing, unless it is more than those hold.
 */
function small(policy: PolicyName): KvRequest {
  const more: KvRequest = policy === "tokenbutler"
    ? { denseLayers: 1 }
    : policy === "h2o"
    ? { budget: { rows: 120 } }
    : {};
  return { ...SMALL, ...more, policy };
}
const DISK = { hostBytes: 0, diskDir: "/spill" } as const;

/** The one beside it: it makes no block whole while it is fed, so it needs no new room. */
const OTHER = { text: textIds(286, 320, 3), prompt: 258 };
/** The one that meets the fault: its eighth token makes a block whole. */
const VICTIM = { text: textIds(304, 320, 5), prompt: 280 };

const LOKI = { fits: false, canProject: true, canPredict: true };

interface Rig extends AsyncDisposable {
  readonly opened: TestEngine;
  readonly files: MemoryFiles;
  /** Buffers that are still given. */
  readonly memory: { left: number };
}

async function openRig(tiers: Partial<TierOptions>): Promise<Rig> {
  const files = new MemoryFiles();
  const memory = { left: Infinity };
  const opened = await openEngine(
    PATH,
    {
      contextLength: 384,
      maxSequences: 2,
      calibration: CALIBRATION,
      predictor: PREDICTOR,
      tiers: { ...DEFAULT_TIERS, ...onDevice(8), prefixCache: false, ...tiers },
    },
    () => ({}),
    {
      files,
      allocate: (bytes) => {
        if (memory.left-- <= 0) throw new RangeError("Array buffer allocation failed");
        return new ArrayBuffer(bytes);
      },
    },
  );
  return { opened, files, memory, [Symbol.asyncDispose]: () => opened.engine.close() };
}

function start(
  { opened }: Rig,
  { text, prompt }: { readonly text: readonly number[]; readonly prompt: number },
  kv: KvRequest,
  onToken?: (count: number) => void,
  id?: string,
): Promise<Answer> {
  const forcedIds = text.slice(prompt);
  const more = { forcedIds, logprobs: 0, kv, ...(id === undefined ? {} : { id }) };
  return run(opened.engine, request(text.slice(0, prompt), forcedIds.length, more), onToken);
}

function nll(answer: Answer): number[] {
  assert.equal(answer.error, null);
  return answer.logprobs.map((entry) => -entry!.logprob);
}

const alone = new Map<string, Promise<number[]>>();

/** What both give without faults. */
function expected(kv: KvRequest, which: typeof OTHER): Promise<number[]> {
  const key = JSON.stringify([kv, which.prompt]);
  let found = alone.get(key);
  if (found === undefined) {
    found = (async () => {
      await using rig = await openRig(DISK);
      return nll(await start(rig, which, kv));
    })();
    alone.set(key, found);
  }
  return found;
}

interface Fault {
  readonly kv: KvRequest;
  /** When: before the victim comes, or when it has so many tokens. */
  readonly at: "prefill" | number;
  readonly harm: (rig: Rig, victimsFiles: readonly string[]) => void;
  /** Null: it is cancelled. */
  readonly error: { readonly code: EngineErrorData["code"]; readonly message: RegExp } | null;
}

/** Runs the other one, the victim with its fault beside it, and both again without one. */
async function check(rig: Rig, { kv, at, harm, error }: Fault): Promise<void> {
  const { opened: { parts }, files, memory } = rig;
  const other = { ...SMALL, policy: "loki" } as const;
  let victim: Promise<Answer> | undefined;
  const begun = Promise.withResolvers<void>();
  const beside = start(rig, OTHER, other, (count) => {
    if (count !== 2) return;
    const before = new Set(files.contents.keys());
    const hurt = () => harm(rig, [...files.contents.keys()].filter((path) => !before.has(path)));
    if (at === "prefill") hurt();
    victim = start(rig, VICTIM, kv, (count) => count === at && hurt(), "victim");
    begun.resolve();
  });
  await begun.promise;
  const failed = await victim!;
  const off = worst(nll(await beside), await expected(other, OTHER));
  assert.ok(off <= NLL_BOUND, `the other sequence is off by ${off}`);
  if (error === null) assert.equal(failed.reason, "cancelled");
  else {
    assert.equal(failed.reason, null, "the fault was not noticed");
    assert.equal(failed.error?.code, error.code, failed.error?.message);
    assert.match(failed.error!.message, error.message);
  }
  assertEmpty(rig);
  files.heal();
  memory.left = Infinity;
  const again = worst(nll(await start(rig, VICTIM, kv)), await expected(kv, VICTIM));
  assert.ok(again <= NLL_BOUND, `the next request is off by ${again}`);
  assertEmpty(rig);
  assert.equal((await parts.kv.usage).pagesInUse, 0);
  const said = error === null ? "cancelled" : failed.error!.message.slice(0, 60);
  console.log(
    `${kv.policy}: "${said}"; the other one ${figure(off)} off, the next one ${figure(again)}`,
  );
}

/** Nothing is left of any sequence. */
function assertEmpty({ opened: { parts }, files }: Rig): void {
  const { store, device } = parts.kv;
  const { hostBytes, diskBytes, numBlocks, numCached } = store.usage;
  assert.deepEqual(
    { hostBytes, diskBytes, numBlocks, numCached },
    { hostBytes: 0, diskBytes: 0, numBlocks: 0, numCached: 0 },
  );
  store.checkInvariants();
  assert.equal(device.pool.usage.pagesInUse, 0);
  device.pool.checkInvariants();
  const left = [...files.contents.keys()].filter((path) => path.endsWith(".kv"));
  assert.deepEqual(left, []);
}

const SPILLED = "cannot be read back";

/** Policies whose sequences read rows from below the device. */
const EACH = ["dense", "oracle", "quest", "h2o", "snapkv", "loki", "tokenbutler"] as const;

Deno.test("a full disk is the error of the request that needs it", async (t) => {
  await using rig = await openRig(DISK);
  const full = { code: "out_of_memory", message: /--kv-host or --kv-disk-size.*/ } as const;
  for (const policy of EACH) {
    for (const at of ["prefill", 2] as const) {
      await t.step(
        `${policy}, ${at === "prefill" ? "while prefilling" : "while decoding"}`,
        () =>
          check(rig, {
            kv: small(policy),
            at,
            harm: ({ files }) => files.faults.room = 20_000,
            error: full,
          }),
      );
    }
  }
});

Deno.test("host memory that is refused is the error of the request that needs it", async (t) => {
  // Blocks of 49,152 bytes: those of both sequences have room.
  await using rig = await openRig({ hostBytes: 32 * 49_152 });
  const refused = { code: "out_of_memory", message: /host memory has no room.*--kv-host/ } as const;
  for (const at of ["prefill", 2] as const) {
    await t.step(at === "prefill" ? "while prefilling" : "while decoding", () =>
      check(rig, {
        kv: { ...SMALL, policy: "loki" },
        at,
        // Buffers that were given before are used again: none of those may be free.
        harm: ({ memory }) => memory.left = at === "prefill" ? 3 : 0,
        error: refused,
      }));
  }
});

/** Every file is cut short, or has a wrong bit in each of its runs. */
const DAMAGE = {
  "a short read": ({ files }: Rig, paths: readonly string[]) => {
    for (const path of paths) {
      const content = files.contents.get(path)!;
      content.bytes = content.bytes.slice(0, 200);
    }
  },
  "a flipped bit": ({ files }: Rig, paths: readonly string[]) => {
    for (const path of paths) {
      const { bytes } = files.contents.get(path)!;
      for (let at = 128 + 77; at < bytes.length; at += 1024) bytes[at]! ^= 4;
    }
  },
};

for (const [name, harm] of Object.entries(DAMAGE)) {
  Deno.test(`${name} is the error of the request whose rows they are`, async (t) => {
    await using rig = await openRig(DISK);
    const error = { code: "internal", message: new RegExp(SPILLED) } as const;
    for (const policy of EACH) {
      await t.step(
        `${policy}, while decoding`,
        () => check(rig, { kv: small(policy), at: 3, harm, error }),
      );
    }
    await t.step("while its recall is measured", () =>
      check(rig, {
        kv: { ...SMALL, policy: "loki", recallEvery: 1 },
        at: 3,
        harm,
        error,
      }));
  });
}

Deno.test("reads that fail while prompts stream are the error of their request", async () => {
  await using rig = await openRig(DISK);
  let reads = 0;
  await check(rig, {
    kv: { ...SMALL, policy: "dense" },
    at: "prefill",
    harm: ({ files }) => {
      // The other one reads single heads; whole blocks are read by the prompt alone.
      const read = files.read.bind(files);
      files.read = (handle, out, position) => {
        const prompt = out.length > 8192;
        if (prompt && ++reads === 40) out = out.subarray(0, 0);
        return read(handle, out, position);
      };
    },
    error: { code: "internal", message: /ends \d+ bytes early/ },
  });
  assert.ok(reads >= 40);
});

Deno.test("a request that is cancelled in the middle of a fetch leaves nothing behind", async (t) => {
  await using rig = await openRig(DISK);
  const { files, opened: { engine } } = rig;
  const read = files.read.bind(files);
  for (const policy of EACH) {
    for (const at of ["prefill", 3] as const) {
      await t.step(
        `${policy}, ${at === "prefill" ? "while prefilling" : "while decoding"}`,
        () =>
          check(rig, {
            kv: small(policy),
            at,
            harm: () => {
              let left = at === "prefill" ? 30 : 2;
              files.read = (handle, out, position) => {
                if (--left === 0) engine.cancel("victim");
                return read(handle, out, position);
              };
            },
            error: null,
          }),
      );
    }
  }
});

Deno.test("what host and disk cannot hold is refused before anything is computed", async () => {
  // Eight files, each larger than the block that it holds: 256 rows.
  const fileBytes = sizesOf({ numLayers: 3, numKvHeads: 2, headDim: 32, bytesPerValue: 4 }).file;
  await using rig = await openRig({ ...DISK, ...onDevice(5), diskBytes: 8 * fileBytes + 1000 });
  assert.equal(rig.opened.engine.info.contextLength, 256);
  const fits = { text: textIds(256, 320, 5), prompt: 250 };
  nll(await start(rig, fits, { ...SMALL, policy: "loki" }));
  const { kvPlanner } = rig.opened.parts;
  const settings = {
    ...resolveKv({ ...SMALL, policy: "loki" }, { numLayers: 3, numKvHeads: 2 }, LOKI).settings,
  };
  assert.equal(kvPlanner.refusal({ numRows: 287, maxRows: 287, settings }), null);
  assert.match(
    kvPlanner.refusal({ numRows: 288, maxRows: 288, settings })!,
    /needs 442368 bytes of KV cache below the device, host and disk hold 393216: .*--kv-disk-size/,
  );
});

Deno.test("what a prompt that failed leaves is nobody's", async () => {
  await using rig = await openRig(DISK);
  const { files } = rig;
  const kv = { ...SMALL, policy: "loki" } as const;
  const read = files.read.bind(files);
  let left = 3;
  files.read = (handle, out, position) =>
    read(handle, --left < 0 ? out.subarray(0, 0) : out, position);
  const failed = await start(rig, VICTIM, kv);
  assert.match(failed.error!.message, new RegExp(SPILLED));
  files.read = read;
  assertEmpty(rig);
  const off = worst(nll(await start(rig, OTHER, kv)), await expected(kv, OTHER));
  assert.ok(off <= NLL_BOUND, `the next request is off by ${off}`);
  assertEmpty(rig);
});

Deno.test("rows of a parked sequence that cannot be read are its own error", async (t) => {
  // The older one grows until the younger one, which is below the device, has to give way.
  const growing = { text: textIds(170, 320, 9), prompt: 100 };
  for (const [name, blocks] of [["pages", [0, 8]], ["lists", [1, 2, 3, 4, 5, 6]]] as const) {
    await t.step(`those of its ${name}`, async () => {
      await using rig = await openRig(DISK);
      const { files, opened: { parts } } = rig;
      const kv = { ...SMALL, policy: "loki", interval: 9 } as const;
      let victim: Promise<Answer> | undefined;
      let tokens = 0;
      let before = new Set<string>();
      let harmed = false;
      const begun = Promise.withResolvers<void>();
      const beside = start(rig, growing, kv, (count) => {
        if (count === 2) {
          before = new Set(files.contents.keys());
          victim = start(rig, VICTIM, kv, () => tokens++);
          begun.resolve();
        }
        // It is parked from the 129th row on.
        if (count !== 40) return;
        const paths = [...files.contents.keys()].filter((path) => !before.has(path));
        DAMAGE["a flipped bit"](rig, blocks.map((block) => paths[block]!));
        harmed = true;
      });
      await begun.promise;
      const [failed, other] = [await victim!, await beside];
      assert.ok(harmed && tokens > 0 && tokens < 24, `parked after ${tokens} tokens`);
      assert.match(failed.error!.message, new RegExp(SPILLED));
      const off = worst(nll(other), await expected(kv, growing));
      assert.ok(off <= NLL_BOUND, `the other sequence is off by ${off}`);
      assertEmpty(rig);
      for (const which of [VICTIM, OTHER]) {
        const off = worst(nll(await start(rig, which, kv)), await expected(kv, which));
        assert.ok(off <= NLL_BOUND, `a later request is off by ${off}`);
      }
      assertEmpty(rig);
      assert.equal(parts.kv.usage.pagesInUse, 0);
    });
  }
});
