/**
 * One request on its way through the engine: its tokens, what is written of them, how the next one
 * is chosen, and the events that its consumer gets. Knows nothing of other sequences.
 *
 * @module
 */
import type { KvReport, KvSettings } from "../butler/settings_types.ts";
import type { SequenceNeed } from "../kv/types.ts";
import type { TokenRules } from "./logit_rules.ts";
import type {
  DecodeRow,
  LogitAdjustment,
  ParkedRows,
  PrefillChunk,
  PrefillResult,
  Sampled,
  SampleSpec,
} from "./runner_types.ts";
import { SequenceTimes } from "./sequence_times.ts";
import type { Progress } from "./totals.ts";
import type {
  EngineErrorData,
  EngineEvent,
  FinishReason,
  GenerateRequest,
  RequestTimings,
  TokenLogprob,
} from "./types.ts";

/** Where the events of a sequence go. Must not throw. */
export type EmitEvent = (event: EngineEvent) => void;

const NO_ADJUSTMENTS: readonly LogitAdjustment[] = [];

/**
 * A request that was taken in.
 *
 * A sequence that still lacks KV rows for more than its newest token is prefilled; one that lacks
 * just that row decodes. Losing its rows therefore turns a decoding sequence back into one that is
 * prefilled, with prompt and answer, and nothing else changes for it.
 */
export class Sequence {
  readonly request: GenerateRequest;
  /** How its rows are kept and selected. */
  readonly kv: KvSettings;
  /** What a person should know of that. */
  readonly kvNotes: readonly string[];
  /** Order of arrival, over all requests of an engine. */
  readonly arrival: number;
  /** Slot of the cache; null while the sequence waits. The scheduler sets it. */
  slot: number | null = null;
  /** Its rows were taken away once. */
  preempted = false;
  /** Its rows in a lower tier, while it has no slot and was not preempted. */
  parked: ParkedRows | null = null;
  /** Nobody reads its events: it does not go on, and makes room for whoever waits. */
  held = false;
  /** It was held once: others may have gone past it. */
  wasHeld = false;
  /** The runner was told of it since it got its slot. */
  begun = false;
  /** Asked for when the sequence ends. */
  reportKv: () => KvReport | null = () => null;
  /** To be dropped when the step that it is part of ends. */
  cancelled = false;

  readonly #emit: EmitEvent;
  readonly #rules: TokenRules;
  readonly #stopIds: ReadonlySet<number>;
  /** Prompt, then answer. */
  readonly #tokens: number[];
  #numWritten = 0;
  /** Prompt tokens whose rows somebody else made. */
  #numCached = 0;
  /** Most prompt tokens that were ever written: progress does not run backwards. */
  #numReported = 0;
  /** Prompt tokens whose log-probability was given out (the first one's is null). */
  #numScored = 0;
  #ended = false;

  readonly #times: SequenceTimes;
  /** Tokens of the answer that {@linkcode takeProgress} told of. */
  #numTold = 0;

  constructor(
    request: GenerateRequest,
    kv: { readonly settings: KvSettings; readonly notes: readonly string[] },
    arrival: number,
    rules: TokenRules,
    emit: EmitEvent,
    nowMs: number,
  ) {
    this.request = request;
    this.kv = kv.settings;
    this.kvNotes = kv.notes;
    this.arrival = arrival;
    this.#rules = rules;
    this.#emit = emit;
    this.#times = new SequenceTimes(nowMs);
    this.#tokens = [...request.promptIds];
    this.#stopIds = new Set(request.forcedIds === undefined ? request.stopTokenIds : []);
  }

  /** Tokens of prompt and answer so far. */
  get numTokens(): number {
    return this.#tokens.length;
  }

  get numPrompt(): number {
    return this.request.promptIds.length;
  }

  /** Prompt tokens that have rows now. */
  get numPrefilled(): number {
    return Math.min(this.#numWritten, this.numPrompt);
  }

  get numGenerated(): number {
    return this.#tokens.length - this.numPrompt;
  }

  /** Tokens without a KV row. */
  get numPending(): number {
    return this.#tokens.length - this.#numWritten;
  }

  /**
   * First rows that depend on nothing but their tokens: those of the prompt, and of the answer while
   * it attends to everything.
   */
  get numShareable(): number {
    return this.kv.policy === "dense"
      ? this.#numWritten
      : Math.min(this.#numWritten, this.numPrompt);
  }

  /** Whether a new prefill makes its rows as they are: that of an answer attends to everything. */
  get isRepeatable(): boolean {
    return this.kv.policy === "dense" || this.numGenerated === 0;
  }

  /** KV rows that it can come to need: the last token of an answer is never fed back. */
  get maxRows(): number {
    return this.numPrompt + Math.max(0, this.request.maxTokens - 1);
  }

  /** Only the newest token, which was sampled, has no row yet. */
  get decodes(): boolean {
    return this.numGenerated > 0 && this.numPending === 1;
  }

  /** What it needs of the cache to begin or to go on. */
  get need(): SequenceNeed {
    const numRows = Math.min(this.numTokens + 1, this.maxRows);
    return { numRows, maxRows: this.maxRows, settings: this.kv };
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Gets a slot. */
  admit(slot: number, nowMs: number): void {
    assertSequence(this.slot === null, "admitted twice");
    assertSequence(this.parked !== null || this.#numWritten === 0, "rows without a place");
    this.slot = slot;
    this.begun = false;
    this.#times.admitted(nowMs);
  }

  /** The first `count` tokens of prompt and answer. */
  firstTokens(count: number): readonly number[] {
    return this.#tokens.slice(0, count);
  }

  /** Gets the rows of its first tokens, which were made before. */
  adopt(numRows: number, nowMs: number): void {
    assertSequence(this.slot !== null && this.#numWritten === 0, "rows are there already");
    assertSequence(numRows > 0 && numRows < this.numPrompt, "nothing is left to prefill");
    this.#numWritten = numRows;
    this.#numCached = numRows;
    this.#numReported = numRows;
    this.#reportPrefill(numRows, nowMs);
  }

  /** Loses its slot and its rows, and keeps its tokens. */
  preempt(): void {
    this.slot = null;
    this.preempted = true;
    this.#numWritten = 0;
  }

  /** Loses its slot; its rows lie in a lower tier. */
  park(rows: ParkedRows): void {
    assertSequence(rows.numRows === this.#numWritten, "rows were lost while parking");
    this.slot = null;
    this.preempted = true;
    this.parked = rows;
  }

  /** Its rows are back. */
  restored(): void {
    this.parked = null;
    this.begun = true;
  }

  /** The newest token, as a row of a decode step. */
  decodeRow(): DecodeRow {
    assertSequence(this.slot !== null && this.decodes, "does not decode");
    const position = this.#tokens.length - 1;
    return {
      slot: this.slot,
      position,
      token: this.#tokens[position]!,
      sample: this.#sampleSpec(),
    };
  }

  /** The next `count` tokens without rows. */
  prefillChunk(count: number): PrefillChunk {
    assertSequence(this.slot !== null && count > 0 && count <= this.numPending, "bad chunk");
    const start = this.#numWritten;
    const end = start + count;
    const last = end === this.#tokens.length;
    const top = this.request.promptLogprobs;
    // Of what was scored before a preemption nothing is asked again.
    const lastTarget = Math.min(end, this.numPrompt - 1);
    const wantsScores = top !== null && lastTarget > start && lastTarget >= this.#numScored;
    return {
      slot: this.slot,
      start,
      tokens: this.#tokens.slice(start, end),
      total: this.#tokens.length,
      sample: last && this.request.maxTokens > 0 ? this.#sampleSpec() : null,
      scoring: wantsScores ? { targets: this.#tokens.slice(start + 1, lastTarget + 1), top } : null,
    };
  }

  /** Prompt tokens of a chunk that never had rows before. */
  newOf({ start, tokens }: PrefillChunk): number {
    return Math.max(0, Math.min(start + tokens.length, this.numPrompt) - this.#numReported);
  }

  /** Takes the result of a chunk. May end the sequence. */
  acceptPrefill(chunk: PrefillChunk, result: PrefillResult, nowMs: number): void {
    const numScores = chunk.scoring?.targets.length ?? 0;
    assertSequence(result.scores.length === numScores, `${result.scores.length} scores came back`);
    assertSequence((chunk.sample !== null) === (result.sampled !== null), "no token came back");
    this.#numWritten += chunk.tokens.length;
    const processed = Math.min(this.#numWritten, this.numPrompt);
    if (processed > this.#numReported) {
      this.#numReported = processed;
      this.#reportPrefill(processed, nowMs);
    }
    if (this.request.promptLogprobs !== null) this.#acceptScores(chunk.start, result.scores);
    if (result.sampled !== null) this.#acceptToken(result.sampled, nowMs);
    else if (this.numPending === 0) {
      this.#times.answered(nowMs);
      this.finish("length", nowMs);
    }
  }

  /** Takes the row that a decode step wrote and the token that it chose. May end the sequence. */
  acceptDecode(sampled: Sampled, nowMs: number): void {
    this.#numWritten++;
    this.#acceptToken(sampled, nowMs);
  }

  #acceptToken({ token, logprob }: Sampled, nowMs: number): void {
    this.#times.answered(nowMs);
    this.#tokens.push(token);
    if (this.request.forcedIds === undefined) this.#rules.push(token);
    this.#emit({ type: "token", id: token, logprob });
    const numGenerated = this.numGenerated;
    if (this.#stopIds.has(token) && numGenerated > this.request.minTokens) {
      this.finish("stop", nowMs);
    } else if (numGenerated === this.request.maxTokens) this.finish("length", nowMs);
  }

  /** Ends the sequence; does nothing if it has ended. */
  finish(reason: FinishReason, nowMs: number): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#times.ended(nowMs);
    this.#emit({ type: "done", reason, timings: this.#timings(nowMs), kv: this.#kvReport() });
  }

  /** Ends the sequence with an error; does nothing if it has ended. */
  fail(error: EngineErrorData): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#emit({ type: "error", error });
  }

  /** How far it came since this was asked last. */
  takeProgress(nowMs: number): Progress {
    const generatedTokens = this.numGenerated - this.#numTold;
    this.#numTold = this.numGenerated;
    return { ...this.#times.takePhases(nowMs), generatedTokens };
  }

  #sampleSpec(): SampleSpec {
    const { sampling, forcedIds, logprobs } = this.request;
    const { temperature, topK, typicalP, topP, minP, seed } = sampling;
    const step = this.numGenerated;
    return {
      ...{ temperature, topK, typicalP, topP, minP, seed, step },
      adjustments: forcedIds === undefined ? this.#rules.adjustments() : NO_ADJUSTMENTS,
      forced: forcedIds?.[step] ?? null,
      logprobs,
    };
  }

  /** `scores[i]` belongs to token start + 1 + i; after a preemption some were given out before. */
  #acceptScores(start: number, scores: readonly TokenLogprob[]): void {
    const first = this.#numScored;
    const fresh = scores.slice(Math.max(0, first - start - 1));
    const entries = first === 0 ? [null, ...fresh] : fresh;
    if (entries.length === 0) return;
    this.#numScored += entries.length;
    this.#emit({ type: "prompt_logprobs", start: first, entries });
  }

  #reportPrefill(processed: number, nowMs: number): void {
    this.#emit({
      type: "prefill",
      processed,
      total: this.numPrompt,
      cached: this.#numCached,
      ms: this.#times.sinceSlot(nowMs),
      policy: this.kv.policy,
    });
  }

  #kvReport(): KvReport | null {
    const report = this.reportKv();
    return report && { ...report, notes: [...this.kvNotes, ...report.notes] };
  }

  #timings(nowMs: number): RequestTimings {
    return {
      ...this.#times.phases(nowMs),
      promptTokens: this.#numReported - this.#numCached,
      cachedTokens: this.#numCached,
      predictedTokens: this.numGenerated,
    };
  }
}

function assertSequence(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`sequence: ${message}`);
}
