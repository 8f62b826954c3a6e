/**
 * An engine on a runner that computes nothing: the next token is a hash of all rows that the
 * sequence has in the cache, read through its page table. Tokens that were lost, repeated, mixed
 * up or written to a foreign page change every token after them.
 *
 * @module
 */
import type { BudgetTable } from "../../src/butler/budget_table.ts";
import type { KvReport, KvSettings } from "../../src/butler/settings.ts";
import { LocalEngine } from "../../src/engine/local_engine.ts";
import type { LocalEngineParts } from "../../src/engine/local_engine_parts.ts";
import {
  type DecodeRow,
  NO_STEPS,
  type ParkedRows,
  type PrefillChunk,
  type PrefillResult,
  type Runner,
  type Sampled,
  type SampleSpec,
  type StepTotals,
} from "../../src/engine/runner_types.ts";
import {
  type EngineEvent,
  type EngineInfo,
  type FinishReason,
  type GenerateRequest,
  GREEDY,
  type TokenLogprob,
} from "../../src/engine/types.ts";
import { PagePool } from "../../src/kv/page_pool.ts";
import type { SequenceNeed } from "../../src/kv/types.ts";
import { poolPlanner } from "../_kv.ts";

export const VOCAB = 97;

/** Time that a step of the worker "is busy" blocks its thread. */
export const BUSY_STEP_MS = 4;

/** What a fake engine is made of. */
export interface FakeOptions {
  readonly contextLength?: number;
  readonly maxSequences?: number;
  readonly prefillChunk?: number;
  readonly pageSize?: number;
  readonly numPages?: number;
  readonly vocabSize?: number;
  /** There is a predictor, and it has a table; runs say what settings they had. */
  readonly budgetTable?: BudgetTable | null;
}

/** A call of the runner. */
export type FakeCall =
  | { readonly kind: "decode"; readonly rows: readonly DecodeRow[] }
  | { readonly kind: "prefill"; readonly chunk: PrefillChunk };

function hash(tokens: Iterable<number>, salt = 0): number {
  let value = 0x811c9dc5 ^ salt;
  for (const token of tokens) value = Math.imul(value ^ (token + 1), 0x01000193);
  return (value ^ (value >>> 15)) >>> 0;
}

function logprobOf(history: readonly number[], id: number, top: number): TokenLogprob {
  const score = (of: number) => -(hash(history, of + 1) % 1000) / 100;
  return {
    id,
    logprob: score(id),
    top: Array.from({ length: top }, (_, i) => ({ id: i, logprob: score(i) })),
  };
}

function choose(history: readonly number[], spec: SampleSpec): Sampled {
  const salt = spec.temperature === 0 ? 0 : spec.seed * 31 + spec.step + 1;
  let token = spec.forced ?? hash(history, salt) % VOCAB;
  if (spec.forced === null) {
    const banned = new Set(spec.adjustments.filter((a) => a.add === -Infinity).map((a) => a.id));
    while (banned.has(token)) token = (token + 1) % VOCAB;
  }
  return {
    token,
    logprob: spec.logprobs === null ? null : logprobOf(history, token, spec.logprobs),
  };
}

interface FakeParked extends ParkedRows {
  readonly tokens: readonly number[];
}

/** Keeps rows by page and position, as a device would. */
export class FakeRunner implements Runner {
  readonly calls: FakeCall[] = [];
  totals: StepTotals = NO_STEPS;
  /** Runs before each call has any effect; may throw or take its time. */
  before: (call: FakeCall) => void | Promise<void> = () => {};
  /** Keep no record of calls: for long runs. */
  silent = false;
  /** What sequences say of their cache is their settings, and that a row has a byte. */
  reports = false;
  readonly #rows = new Map<number, number>();
  readonly #settings = new Map<number, KvSettings>();

  /** No lower tier has room. */
  cannotPark = false;
  /** Sequences that are parked now, and how often one was. */
  numParked = 0;
  numParks = 0;
  readonly #numWritten = new Map<number, number>();

  constructor(readonly pool: PagePool) {}

  begin(slot: number, { settings }: SequenceNeed): Promise<void> {
    this.#numWritten.set(slot, 0);
    this.#settings.set(slot, settings);
    return Promise.resolve();
  }

  report(slot: number): KvReport | null {
    const settings = this.#settings.get(slot);
    if (!this.reports || settings === undefined) return null;
    return {
      policy: settings.policy,
      settings,
      // A slot that has just begun has done nothing.
      rowsPerStep: this.#numWritten.get(slot) === 0 ? 0 : 1,
      bytesPerStep: 0,
      residentShare: 1,
      tiers: { device: this.#numWritten.get(slot) ?? 0, host: 0, disk: 0 },
      recall: null,
      notes: [],
    };
  }

  park(slot: number): Promise<FakeParked | null> {
    if (this.cannotPark) return Promise.resolve(null);
    this.numParked++;
    this.numParks++;
    const numRows = this.#numWritten.get(slot) ?? 0;
    const tokens = this.#history(slot, numRows);
    const tiers = { device: 0, host: numRows, disk: 0 };
    return Promise.resolve({
      numRows,
      tokens,
      tiers,
      [Symbol.dispose]: () => void this.numParked--,
    });
  }

  /** Puts rows into a slot that has begun. */
  load(slot: number, tokens: readonly number[]): void {
    tokens.forEach((token, i) => this.#write(slot, i, token));
  }

  /** The first rows of a slot. */
  rows(slot: number, count: number): readonly number[] {
    return this.#history(slot, count);
  }

  restore(slot: number, parked: ParkedRows): Promise<void> {
    this.load(slot, (parked as FakeParked).tokens);
    this.numParked--;
    return Promise.resolve();
  }

  async decode(rows: readonly DecodeRow[]): Promise<readonly Sampled[]> {
    await this.#begin({ kind: "decode", rows });
    if (rows.length === 0) throw new Error("an empty step");
    if (new Set(rows.map((row) => row.slot)).size !== rows.length) throw new Error("slot twice");
    return rows.map(({ slot, position, token, sample }) => {
      this.#write(slot, position, token);
      return choose(this.#history(slot, position + 1), sample);
    });
  }

  async prefill(chunk: PrefillChunk): Promise<PrefillResult> {
    await this.#begin({ kind: "prefill", chunk });
    const { slot, start, tokens, sample, scoring } = chunk;
    tokens.forEach((token, i) => this.#write(slot, start + i, token));
    const history = this.#history(slot, start + tokens.length);
    if (scoring !== null && scoring.targets.length === 0) throw new Error("nothing to score");
    return {
      sampled: sample === null ? null : choose(history, sample),
      scores: (scoring?.targets ?? []).map((target, i) =>
        logprobOf(history.slice(0, start + i + 1), target, scoring!.top)
      ),
    };
  }

  async #begin(call: FakeCall): Promise<void> {
    if (!this.silent) this.calls.push(call);
    const waiting = this.before(call);
    if (waiting !== undefined) await waiting;
  }

  #address(slot: number, position: number): number {
    const { pageSize } = this.pool.usage;
    const page = this.pool.pageTable(slot)[Math.floor(position / pageSize)];
    if (page === undefined) throw new Error(`row ${position} of slot ${slot} is not reserved`);
    return page * pageSize + position % pageSize;
  }

  #write(slot: number, position: number, token: number): void {
    this.#rows.set(this.#address(slot, position), token);
    this.#numWritten.set(slot, Math.max(position + 1, this.#numWritten.get(slot) ?? 0));
  }

  #history(slot: number, numTokens: number): number[] {
    return Array.from({ length: numTokens }, (_, position) => {
      const token = this.#rows.get(this.#address(slot, position));
      if (token === undefined) throw new Error(`row ${position} of slot ${slot} was not written`);
      return token;
    });
  }
}

/** A fake engine and its parts. */
export interface FakeEngine {
  readonly engine: LocalEngine;
  readonly runner: FakeRunner;
  readonly pool: PagePool;
  readonly internalErrors: unknown[];
  disposed: boolean;
}

export function fakeEngine(
  options: FakeOptions = {},
  parts: Partial<LocalEngineParts> = {},
): FakeEngine {
  const {
    contextLength = 256,
    maxSequences = 4,
    prefillChunk = 16,
    pageSize = 8,
    vocabSize = VOCAB,
    budgetTable = null,
    numPages = maxSequences * Math.ceil(contextLength / pageSize),
  } = options;
  const maxPagesPerSlot = Math.ceil(contextLength / pageSize);
  const pool = new PagePool({ numPages, pageSize, numSlots: maxSequences, maxPagesPerSlot });
  const info: EngineInfo = {
    model: {
      name: "fake",
      architecture: "fake",
      vocabSize,
      hiddenSize: 1,
      numLayers: 2,
      numKvHeads: 2,
      numParameters: 1,
      sizeBytes: 1,
      trainedContext: contextLength,
      fingerprint: "0",
    },
    contextLength,
    maxSequences,
    kv: {
      type: "f16",
      pageSize,
      numPages,
      bytesPerToken: 4,
      tiers: { deviceBytes: 65536, hostBytes: 1 << 20, diskBytes: 0 },
      defaults: {},
      canProject: false,
      importanceKeys: "f16",
      canPredict: budgetTable !== null,
      budgetTable,
    },
    adapter: { description: "fake", vendor: "", software: true, features: [] },
    variants: {},
    prefillChunk,
    readback: "awaited",
    notes: [],
  };
  const runner = new FakeRunner(pool);
  runner.reports = budgetTable !== null;
  const fake: FakeEngine = {
    runner,
    pool,
    internalErrors: [],
    disposed: false,
    engine: new LocalEngine({
      runner,
      kv: pool,
      kvPlanner: poolPlanner(pool),
      info,
      dispose: () => {
        fake.disposed = true;
      },
      onInternalError: (error) => fake.internalErrors.push(error),
      ...parts,
    }),
  };
  return fake;
}

let numRequests = 0;

/** A request with defaults: greedy, no stop ids, no log-probabilities. */
export function request(
  promptIds: readonly number[],
  maxTokens: number,
  more: Partial<GenerateRequest> = {},
): GenerateRequest {
  return {
    id: `r${numRequests++}`,
    promptIds,
    maxTokens,
    minTokens: 0,
    stopTokenIds: [],
    bannedTokenIds: [],
    sampling: GREEDY,
    logprobs: null,
    promptLogprobs: null,
    ...more,
  };
}

/** Some prompt of a length. */
export function prompt(length: number, salt = 0): number[] {
  return Array.from({ length }, (_, i) => hash([i, salt]) % VOCAB);
}

/** What a request must give, found without engine, pages or steps. */
export function expected(req: GenerateRequest): { ids: number[]; reason: FinishReason } {
  const { sampling, forcedIds, minTokens } = req;
  const ids: number[] = [];
  while (ids.length < req.maxTokens) {
    const bans = [...req.bannedTokenIds, ...(ids.length < minTokens ? req.stopTokenIds : [])];
    const { token } = choose([...req.promptIds, ...ids], {
      ...sampling,
      step: ids.length,
      adjustments: bans.map((id) => ({ id, bias: 0, scale: 1, add: -Infinity })),
      forced: forcedIds?.[ids.length] ?? null,
      logprobs: null,
    });
    ids.push(token);
    if (forcedIds === undefined && req.stopTokenIds.includes(token)) return { ids, reason: "stop" };
  }
  return { ids, reason: "length" };
}

/** Entries of `prompt_logprobs` that a request must give. */
export function expectedScores(req: GenerateRequest): (TokenLogprob | null)[] {
  return req.promptIds.map((id, i) =>
    i === 0 ? null : logprobOf(req.promptIds.slice(0, i), id, req.promptLogprobs ?? 0)
  );
}

/** Events of a request, put together. */
export interface Collected {
  readonly events: EngineEvent[];
  readonly ids: number[];
  readonly scores: (TokenLogprob | null)[];
  /** Reason of `done`, or code of `error`. */
  readonly end: string;
}

/** Reads a request to its end and checks the order of its events. */
export async function collect(stream: AsyncIterable<EngineEvent>): Promise<Collected> {
  const events: EngineEvent[] = [];
  const ids: number[] = [];
  const scores: (TokenLogprob | null)[] = [];
  let end: string | null = null;
  let processed = 0;
  for await (const event of stream) {
    if (end !== null) throw new Error(`${event.type} came after the end`);
    events.push(event);
    if (event.type === "token") ids.push(event.id);
    else if (event.type === "prompt_logprobs") {
      if (event.start !== scores.length) throw new Error("prompt_logprobs out of order");
      scores.push(...event.entries);
    } else if (event.type === "prefill") {
      if (event.processed <= processed) throw new Error("prefill runs backwards");
      processed = event.processed;
    } else end = event.type === "done" ? event.reason : event.error.code;
  }
  if (end === null) throw new Error("a request without an end");
  return { events, ids, scores, end };
}
