/**
 * Builds an engine in this isolate: opens the model and the device, plans memory, uploads, warms
 * up.
 *
 * @module
 */
import { DEFAULT_MODEL } from "../assets.ts";
import { resolveKv } from "../butler/settings.ts";
import { DeviceError, limitCaps, openDevice } from "../gpu/device.ts";
import { Kernels } from "../gpu/kernels.ts";
import { contextLimit, selectPlan } from "../gpu/plan.ts";
import { DeviceTier, kvBytesPerToken } from "../kv/device_tier.ts";
import { TieredCache } from "../kv/tiered_cache.ts";
import { BLOCK_ROWS } from "../kv/slab_pool.ts";
import { openModel } from "../model/open.ts";
import { ropeForContext } from "../model/rope.ts";
import type { ModelSource } from "../model/types.ts";
import { availableHostMemory, softwareCacheBytes, spareDeviceBytes } from "./host_memory.ts";
import { failWithDevice, onDeviceGone } from "./device_watch.ts";
import {
  closeStore,
  openConversations,
  openStore,
  storedRows,
  type StoreSystem,
} from "./open_store.ts";
import { checkOverrideNames, readbackOverride } from "./kernel_overrides.ts";
import { LocalEngine } from "./local_engine.ts";
import type { KvPlanner, LocalEngineParts } from "./local_engine_parts.ts";
import { ModelRunner } from "./model_runner.ts";
import { loadCalibration, loadPredictor } from "./model_files.ts";
import { noteOf, noteOnConsole } from "./note.ts";
import type { EngineInfo, EngineNote, EngineOptions, LoadProgress } from "./types.ts";
import { GREEDY } from "./types.ts";
import { WeightStore } from "./weights.ts";

/** Most prompt tokens in a chunk, and the time that a chunk should take. */
const MAX_CHUNK = 512;
const CHUNK_MS = 2000;
const LEAST_CHUNK = 32;
/** Tokens of the warm-up prompt, from which the speed of prefill is judged. */
const WARM_UP_TOKENS = 16;

/** What an engine is made of, by its real types: for tests and benchmarks that look inside. */
export interface EngineParts extends LocalEngineParts {
  readonly runner: ModelRunner;
  readonly kv: TieredCache;
  readonly device: GPUDevice;
}

/**
 * Starts an engine.
 *
 * @throws {ModelFileError} If the model cannot be used.
 * @throws {DeviceError} If there is no device, or not one that is good enough.
 * @throws {KvSettingsError} If settings of the KV cache do not suit the model.
 */
export async function createLocalEngine(
  options: EngineOptions,
  onProgress: (progress: LoadProgress) => void,
  onNote: (note: EngineNote) => void = noteOnConsole,
): Promise<LocalEngine> {
  return watchedEngine(await createEngineParts(options, onProgress, { onNote }), onNote);
}

/** An engine that ends with its device. */
export function watchedEngine(
  parts: EngineParts,
  onNote: (note: EngineNote) => void = noteOnConsole,
): LocalEngine {
  const onInternalError = (error: unknown) => onNote(noteOf(error));
  const engine = new LocalEngine({ ...parts, onInternalError });
  onDeviceGone(parts.device, (message) => engine.markLost(message));
  return engine;
}

/** What an engine is given instead of making it; for tests, but for `onNote`. */
export interface EngineSystem extends StoreSystem {
  /** Told of what belongs to no request; the console, unless it is said. */
  readonly onNote?: (note: EngineNote) => void;
  /** Kernels of a device that outlives the engine, instead of a device of its own. */
  readonly kernels?: Kernels;
}

/**
 * Makes all that an engine needs, ready to run steps. The caller calls `dispose` once.
 *
 * @param system Instead of files, memory and a device.
 * @throws {ModelFileError} If the model cannot be used.
 * @throws {DeviceError} If there is no device, or not one that is good enough.
 * @throws {KvSettingsError} If settings of the KV cache do not suit the model.
 */
export async function createEngineParts(
  options: EngineOptions,
  onProgress: (progress: LoadProgress) => void,
  system: EngineSystem = {},
): Promise<EngineParts> {
  const source = await openModel(options.modelPath);
  try {
    return await build(options, source, onProgress, system);
  } finally {
    source.close();
  }
}

async function build(
  options: EngineOptions,
  source: ModelSource,
  onProgress: (progress: LoadProgress) => void,
  system: EngineSystem,
): Promise<EngineParts> {
  const { config } = source;
  const { calibration, notes: calibrationNotes } = await loadCalibration(options, source);
  const { predictor, budgetTable, notes: predictorNotes } = await loadPredictor(options, source);
  const canDo = {
    canProject: calibration !== null,
    canPredict: predictor !== null,
    budgetTable,
  };
  // What no request could be run with shows before a device is opened.
  resolveKv(options.kv, config, { fits: true, ...canDo });
  onProgress({ phase: "device", fraction: 0 });
  const kernels = system.kernels ?? await openKernels(options.kernelOverrides);
  const { device, caps } = kernels;
  const resources: Disposable[] = [];
  const dispose = () => {
    for (const resource of resources.reverse()) resource[Symbol.dispose]();
    if (system.kernels === undefined) device.destroy();
  };
  try {
    const plan = selectPlan(caps, options.kernelOverrides);
    let done = 0;
    const weights = new WeightStore(kernels, (bytes) => {
      done += bytes;
      onProgress({ phase: "weights", fraction: Math.min(1, done / source.sizeBytes) });
    });
    resources.push(weights);
    const limit = contextLimit(caps, plan, config);
    const tier = await DeviceTier.create(kernels, config, {
      kvType: options.kvType,
      contextLength: Math.min(
        options.contextLength ?? config.contextLength,
        limit,
      ),
      numSlots: options.maxSequences,
      spareBytes: spareDeviceBytes(source.sizeBytes),
      deviceBytes: options.tiers.deviceBytes,
      ...(caps.software
        ? { mostBytes: softwareCacheBytes(availableHostMemory(), source.sizeBytes) }
        : {}),
    });
    const fingerprint = await source.fingerprint();
    const onNote = system.onNote ?? noteOnConsole;
    const warn = (message: string) => onNote({ level: "warning", message });
    const store = openStore(options, config, fingerprint, tier.contextLength, warn, system);
    const kv = new TieredCache(tier, store);
    resources.push(kv);
    const conversations = options.tiers.prefixCache
      ? openConversations(store, options.tiers, system.files)
      : null;
    const contextLength = Math.min(
      tier.contextLength,
      Math.max(tier.numPages * BLOCK_ROWS, storedRows(store)),
    );
    if (contextLength < 1) {
      throw new DeviceError(
        "too_small",
        `no tier has room for ${BLOCK_ROWS} rows of the KV cache, which is where it begins: give ` +
          "more with --kv-device, --kv-host or --kv-disk",
      );
    }
    const maxPrefill = options.prefillChunk ?? Math.min(MAX_CHUNK, contextLength);
    const runner = await ModelRunner.create(
      {
        kernels,
        plan,
        config,
        rope: ropeForContext(config.rope, tier.contextLength),
        kv: tier,
        cache: kv,
        kvType: options.kvType,
        maxSequences: options.maxSequences,
        maxPrefill,
        overrides: options.kernelOverrides,
        calibration,
        predictor,
        importanceKeys: options.importanceKeys,
        ...readbackOverride(options.kernelOverrides),
      },
      source,
      weights,
    );
    resources.push(runner);
    kv.onRelease = (slot) => runner.end(slot);
    weights.finish();
    onProgress({ phase: "pipelines", fraction: 0 });
    const measured = await warmUp(runner, tier, maxPrefill);
    kernels.check();
    const prefillChunk = options.prefillChunk ?? Math.min(maxPrefill, measured);
    onProgress({ phase: "ready", fraction: 1 });
    const notes = [...source.notes, ...calibrationNotes, ...predictorNotes, ...tier.notes];
    if (contextLength < tier.contextLength) {
      notes.push(
        `context cut from ${tier.contextLength} to ${contextLength} tokens: host and disk have room ` +
          "for no more (--kv-host, --kv-disk)",
      );
    }
    const asked = options.contextLength ?? config.contextLength;
    if (asked > limit) {
      notes.push(`a software adapter runs at most ${limit} tokens of this model's context`);
    }
    if (options.contextLength !== null && options.contextLength > config.contextLength) {
      notes.push(
        `a context of ${options.contextLength} tokens is longer than the ` +
          `${config.contextLength} that the model was trained for`,
      );
    }
    if (runner.readbackMode === "awaited") {
      notes.push("fast readback does not work here; each step costs about 10 ms more");
    }
    const info: EngineInfo = {
      model: {
        name: options.modelPath.endsWith(DEFAULT_MODEL.path)
          ? DEFAULT_MODEL.servedName
          : config.name,
        architecture: config.architecture,
        vocabSize: config.vocabSize,
        hiddenSize: config.hiddenSize,
        numLayers: config.numLayers,
        numKvHeads: config.numKvHeads,
        numParameters: source.numParameters,
        sizeBytes: source.sizeBytes,
        trainedContext: config.contextLength,
        fingerprint,
      },
      contextLength,
      maxSequences: options.maxSequences,
      kv: {
        type: options.kvType,
        pageSize: BLOCK_ROWS,
        numPages: tier.numPages,
        bytesPerToken: kvBytesPerToken(config, options.kvType),
        tiers: kv.capacities,
        defaults: options.kv,
        importanceKeys: options.importanceKeys,
        ...canDo,
      },
      adapter: {
        description: caps.description,
        vendor: caps.vendor,
        software: caps.software,
        features: [
          ...(caps.subgroups ? ["subgroups"] : []),
          ...(caps.f16 ? ["shader-f16"] : []),
          ...(caps.timestamps ? ["timestamp-query"] : []),
        ],
      },
      variants: kernels.variants,
      prefillChunk,
      readback: runner.readbackMode,
      notes,
    };
    const chunkTarget = options.prefillChunk === null
      ? { ms: CHUNK_MS, least: LEAST_CHUNK, most: maxPrefill }
      : null;
    const kvPlanner: KvPlanner = {
      fits: (maxRows) => kv.fitsDevice(maxRows),
      refusal: (need) => kv.refusal(need),
    };
    const prefixes = options.tiers.prefixCache ? runner.prefixes : null;
    const settle = () => closeStore(store, warn);
    const tierLoads = () => kv.loads;
    return {
      runner,
      kv,
      kvPlanner,
      info,
      device,
      prefixes,
      conversations,
      tierLoads,
      settle,
      dispose,
      chunkTarget,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * Opens a device.
 *
 * @throws {DeviceError} If there is none, or not one that is good enough; or for the name of an
 * override that is none.
 */
export async function openKernels(overrides: EngineOptions["kernelOverrides"]): Promise<Kernels> {
  checkOverrideNames(overrides);
  const { device, caps } = await openDevice();
  const kernels = new Kernels(device, limitCaps(caps, overrides));
  failWithDevice(kernels);
  return kernels;
}

/**
 * Runs each kind of step once, so that drivers finish compiling, and judges from a short prompt how
 * many tokens take two seconds. A first guess: the engine goes on from what real chunks take.
 */
async function warmUp(runner: ModelRunner, kv: DeviceTier, maxPrefill: number): Promise<number> {
  const count = Math.min(WARM_UP_TOKENS, maxPrefill, kv.contextLength - 2);
  if (count < 1) return maxPrefill;
  kv.reserve(0, count + 1);
  try {
    const tokens = Array.from({ length: count }, () => 0);
    const sample = { ...GREEDY, step: 0, adjustments: [], forced: null, logprobs: null };
    const chunk = { slot: 0, start: 0, tokens, total: count, sample, scoring: null };
    await runner.prefill({ ...chunk, tokens: tokens.slice(0, 1) });
    await runner.decode([{ slot: 0, position: 1, token: 0, sample }]);
    await runner.prefill(chunk);
    const began = performance.now();
    await runner.prefill(chunk);
    const perToken = (performance.now() - began) / count;
    return Math.max(LEAST_CHUNK, Math.floor(CHUNK_MS / perToken / 32) * 32);
  } finally {
    kv.release(0);
  }
}
