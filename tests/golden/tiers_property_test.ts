/**
 * Any sizes of the tiers, any settings, any mix of sequences, some of them cancelled: what a
 * sequence gives does not depend on any of it.
 */
import { DEFAULT_TIERS, type EngineErrorData } from "../../src/engine/types.ts";
import {
  type KvRequest,
  type KvTableLayer,
  type PolicyName,
  resolveKv,
} from "../../src/butler/settings.ts";
import { BLOCK_ROWS } from "../../src/kv/slab_pool.ts";
import { pagesOf, smallestSet } from "../../src/kv/working_set.ts";
import { assert, fc } from "std-testing";
import { MemoryFiles } from "../kv/store/_memory_files.ts";
import { openEngine, type TestEngine } from "./_engine.ts";
import { figure } from "./_golden.ts";
import {
  makeCalibration,
  makePredictor,
  NLL_BOUND,
  offloadedModel,
  textIds,
  worst,
} from "./_offload.ts";
import { request, run } from "./_requests.ts";

const CALIBRATION = await makeCalibration();
const PREDICTOR = await makePredictor();
const PATH = await offloadedModel();
const CONTEXT = 320;
/** Tokens that are fed one by one: a block becomes whole among them. */
const FED = 34;
const RUNS = 14;
const SEED = 4;
const TEXTS = [150, 190, 240, 300].map((length) => textIds(length, 320, length));
const MODEL = { numLayers: 3, numKvHeads: 2 };
/** Bytes of a block in one layer. */
const PAGE_BYTES = 16_384;

/** One sequence of a mix. */
interface Member {
  readonly text: number;
  readonly kv: KvRequest;
  /** Tokens after which it is cancelled; null: it runs to its end. */
  readonly cancelAt: number | null;
  /** Tokens of the one before it when it comes. */
  readonly after: number;
}

/** Where rows may lie: 0 is the least, 1 is everything. */
interface Sizes {
  /** `tight`: all of them nearly fit together, so that some are parked as they grow. */
  readonly device: number | "tight";
  readonly host: number;
}

const role = fc.constantFrom(...["dense", "window", "selected"] as const);
const share = fc.oneof(fc.constantFrom(0, 1), fc.double({ min: 0, max: 1, noNaN: true }));
const anySizes: fc.Arbitrary<Sizes> = fc.record({
  device: fc.oneof(
    { weight: 3, arbitrary: fc.double({ min: 0, max: 0.4, noNaN: true }) },
    { weight: 2, arbitrary: fc.constant("tight" as const) },
    { weight: 1, arbitrary: share },
  ),
  host: share,
});

/** A window of 32 rows may be shorter than what comes between two selections. */
const anyInterval = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 5 }) },
  { weight: 1, arbitrary: fc.integer({ min: 30, max: 40 }) },
);

/** Settings; `rows` are those of every KV head beside sinks and window. */
function anyKv(
  rows: readonly [number, number],
  ...schedules: NonNullable<KvRequest["fetch"]>[]
): fc.Arbitrary<KvRequest> {
  const budget = fc.integer({ min: rows[0], max: rows[1] });
  const table: fc.Arbitrary<readonly KvTableLayer[]> = fc.array(
    fc.record(
      { role, budgets: fc.tuple(budget, budget), interval: fc.integer({ min: 1, max: 3 }) },
      { requiredKeys: ["role", "budgets"] },
    ),
    { minLength: 3, maxLength: 3 },
  ).map((layers) => layers.map((of) => of.role === "selected" ? of : { role: of.role }));
  return fc.record({
    policy: fc.constantFrom<PolicyName[]>(
      "dense",
      "streaming",
      "oracle",
      "quest",
      "loki",
      "tokenbutler",
      "h2o",
      "snapkv",
    ),
    sinks: fc.integer({ min: 0, max: 32 }),
    window: fc.integer({ min: 1, max: 32 }),
    budget,
    interval: anyInterval,
    fetch: fc.constantFrom(...schedules),
    neighbours: fc.boolean(),
    denseLayers: fc.integer({ min: 0, max: 3 }),
    table: fc.oneof(fc.constant(null), table),
  }).map(({ budget, table, denseLayers, ...kv }): KvRequest => {
    // Nothing is predicted for the first layer.
    if (kv.policy === "tokenbutler") {
      if (table === null) denseLayers = Math.max(1, denseLayers);
      else if (table[0]!.role === "selected") table = [{ role: "window" }, ...table.slice(1)];
    }
    // A table whose layers are all dense or windows has no budget of its own.
    if (table === null || kv.policy === "quest") {
      return { ...kv, denseLayers, budget: { rows: budget } };
    }
    return { ...kv, table: { layers: table }, budget: { rows: budget } };
  });
}

function anyMix(kv: fc.Arbitrary<KvRequest>): fc.Arbitrary<readonly Member[]> {
  const member = fc.record({
    text: fc.integer({ min: 0, max: TEXTS.length - 1 }),
    kv,
    cancelAt: fc.oneof({ weight: 2, arbitrary: fc.constant(null) }, {
      weight: 1,
      arbitrary: fc.integer({ min: 0, max: FED - 1 }),
    }),
    after: fc.integer({ min: 0, max: 4 }),
  });
  return fc.array(member, { minLength: 2, maxLength: 3 });
}

/** Every row is covered: for `streaming` by its window, which the device must have. */
function covering(mix: readonly Member[]): readonly Member[] {
  return mix.map((member) => {
    const { kv } = member;
    if (kv.policy === "streaming") return { ...member, text: 0, kv: { ...kv, window: CONTEXT } };
    const { budget: _, ...rest } = kv;
    const hasOwn = typeof kv.table === "object" &&
      kv.table.layers.some(({ role }) => role === "selected");
    // A table is scaled to the budget's mean: a smaller one would leave heads that do not cover.
    return hasOwn ? { ...member, kv: rest } : member;
  });
}

/** Pages of the least that a sequence can run with. */
function leastPages({ text, kv }: Member): number {
  const situation = { fits: false, canProject: true, canPredict: true };
  const { settings } = resolveKv(kv, MODEL, situation);
  const maxRows = TEXTS[text]!.length - 1;
  return smallestSet({ settings, maxRows }).reduce((sum, set) => sum + pagesOf(set), 0);
}

/** Pages of all rows of a sequence. */
function wholePages(text: number): number {
  return MODEL.numLayers * Math.ceil((TEXTS[text]!.length - 1) / BLOCK_ROWS);
}

interface Outcome {
  readonly nll: readonly number[];
  readonly cancelled: boolean;
  readonly error: EngineErrorData | null;
}

async function runMember(
  { engine }: TestEngine,
  { text, kv, cancelAt }: Omit<Member, "after">,
  onToken: (count: number) => void,
): Promise<Outcome> {
  const ids = TEXTS[text]!;
  const forcedIds = ids.slice(-FED);
  const wanted = request(ids.slice(0, -FED), FED, { forcedIds, logprobs: 0, kv });
  if (cancelAt === 0) setTimeout(() => engine.cancel(wanted.id), 5);
  const answer = await run(engine, wanted, (count) => {
    if (count === cancelAt) engine.cancel(wanted.id);
    onToken(count);
  });
  return {
    nll: answer.logprobs.map((entry) => -entry!.logprob),
    cancelled: answer.reason === "cancelled",
    error: answer.error,
  };
}

const ALONE = {
  contextLength: CONTEXT,
  calibration: CALIBRATION,
  predictor: PREDICTOR,
  tiers: { ...DEFAULT_TIERS, prefixCache: false },
};

/** What sequences give alone, with everything on the device. */
class Alone {
  readonly #known = new Map<string, Promise<readonly number[]>>();

  constructor(readonly opened: TestEngine) {}

  nll(text: number, kv: KvRequest): Promise<readonly number[]> {
    const key = JSON.stringify([text, kv]);
    let found = this.#known.get(key);
    if (found === undefined) {
      found = runMember(this.opened, { text, kv, cancelAt: null }, () => {}).then(
        ({ nll, error }) => {
          assert.equal(error, null);
          return nll;
        },
      );
      this.#known.set(key, found);
    }
    return found;
  }
}

interface Tally {
  sequences: number;
  below: number;
  cancelled: number;
  parked: number;
  worst: number;
}

/** Runs a mix, and holds each sequence against what `wanted` says. */
async function checkMix(
  { device, host }: Sizes,
  mix: readonly Member[],
  wanted: (member: Member) => Promise<readonly number[]>,
  tally: Tally,
): Promise<void> {
  // From the least that each of them needs to room for all of them.
  const everything = mix.length * MODEL.numLayers * CONTEXT / BLOCK_ROWS;
  const least = Math.max(...mix.map(leastPages));
  const whole = mix.reduce((sum, { text }) => sum + wholePages(text), 0);
  const pages = device === "tight"
    ? Math.max(least, whole - MODEL.numLayers)
    : least + Math.round(device * (everything - least));
  const files = new MemoryFiles();
  await using opened = await openEngine(
    PATH,
    {
      ...ALONE,
      maxSequences: mix.length,
      tiers: {
        ...DEFAULT_TIERS,
        prefixCache: false,
        deviceBytes: pages * PAGE_BYTES,
        hostBytes: Math.round(host * everything) * PAGE_BYTES,
        diskDir: "/spill",
      },
    },
    ({ runner, kv }) => {
      const begin = runner.begin.bind(runner);
      runner.begin = (slot, need) => {
        if (kv.offloaded(slot) !== null) tally.below++;
        return begin(slot, need);
      };
      const park = runner.park.bind(runner);
      runner.park = (slot) => {
        tally.parked++;
        return park(slot);
      };
      return {};
    },
    { files },
  );
  const { kv } = opened.parts;
  const gates = mix.map(() => Promise.withResolvers<void>());
  gates[0]!.resolve();
  await Promise.all(mix.map(async (member, index) => {
    await gates[index]!.promise;
    const next = mix[index + 1];
    const open = () => gates[index + 1]?.resolve();
    if (next?.after === 0) open();
    const got = await runMember(opened, member, (count) => {
      if (next !== undefined && count >= next.after) open();
    });
    open();
    tally.sequences++;
    assert.equal(got.error, null);
    tally.cancelled += Number(got.cancelled);
    assert.equal(got.nll.length < FED, got.cancelled);
    const off = worst(got.nll, (await wanted(member)).slice(0, got.nll.length));
    tally.worst = Math.max(tally.worst, off);
    assert.ok(off <= NLL_BOUND, `sequence ${index} is off by ${off}`);
  }));
  const { numBlocks, hostBytes, diskBytes } = kv.store.usage;
  assert.deepEqual({ numBlocks, hostBytes, diskBytes }, {
    numBlocks: 0,
    hostBytes: 0,
    diskBytes: 0,
  });
  kv.store.checkInvariants();
  kv.device.pool.checkInvariants();
  assert.equal(kv.usage.pagesInUse, 0);
}

function newTally(): Tally {
  return { sequences: 0, below: 0, cancelled: 0, parked: 0, worst: 0 };
}

function report({ sequences, below, cancelled, parked, worst }: Tally): void {
  console.log(
    `${sequences} sequences, begun below the device ${below} times, ${cancelled} ` +
      `cancelled, ${parked} times parked: NLL at most ${figure(worst)} off`,
  );
}

Deno.test("with settings that cover every row any mix in any tiers equals dense", async () => {
  await using opened = await openEngine(PATH, ALONE);
  const alone = new Alone(opened);
  const tally = newTally();
  await fc.assert(
    fc.asyncProperty(
      anySizes,
      anyMix(anyKv([CONTEXT, 500], "in-step", "ahead")),
      (sizes, mix) =>
        checkMix(sizes, covering(mix), ({ text }) => alone.nll(text, { policy: "dense" }), tally),
    ),
    { numRuns: RUNS, endOnFailure: true },
  );
  report(tally);
});

Deno.test("a selection is the same in any mix and any tiers", async () => {
  await using opened = await openEngine(PATH, ALONE);
  const alone = new Alone(opened);
  const tally = newTally();
  await fc.assert(
    fc.asyncProperty(
      anySizes,
      // Of rows that are fetched ahead those are attended to that were chosen two steps before.
      anyMix(anyKv([4, 60], "in-step")),
      (sizes, mix) => checkMix(sizes, mix, ({ text, kv }) => alone.nll(text, kv), tally),
    ),
    // Rows whose scores are nearly the same may be swapped where sums are made in another order.
    { numRuns: RUNS, endOnFailure: true, seed: SEED },
  );
  report(tally);
});
