/**
 * The llama.cpp side of `bench compare-llama-cpp`: loads a model on llama.cpp's Vulkan backend and
 * does what the lines of its standard input say. A process of its own, so that neither side's
 * threads and memory get into the other's figures.
 *
 * @module
 */
import { getLlama, type LlamaContextSequence, LlamaLogLevel, type Token } from "node-llama-cpp";
import { now, since } from "../_clock.ts";
import type { PeerReply, PeerRequest } from "../_llama_cpp_protocol.ts";

const WORTH_KEEPING = /offloaded|using device|flash_attn|n_ubatch|model buffer size|n_threads/;

let sequence: LlamaContextSequence | null = null;

async function open(request: PeerRequest & { op: "open" }): Promise<PeerReply> {
  const log: string[] = [];
  const llama = await getLlama({
    gpu: "vulkan",
    build: "never",
    logLevel: LlamaLogLevel.info,
    logger: (_level, message) => {
      if (WORTH_KEEPING.test(message)) log.push(message.trim());
    },
  });
  const model = await llama.loadModel({
    modelPath: request.model,
    gpuLayers: "max",
    ignoreMemorySafetyChecks: true,
  });
  const context = await model.createContext({
    contextSize: request.context,
    batchSize: request.batch,
    flashAttention: request.flashAttention,
    sequences: 1,
    ignoreMemorySafetyChecks: true,
  });
  sequence = context.getSequence();
  return {
    gpu: llama.gpu,
    devices: await llama.getGpuDeviceNames(),
    release: llama.llamaCppRelease.release,
    gpuLayers: model.gpuLayers,
    log,
  };
}

async function answer(request: PeerRequest): Promise<PeerReply> {
  if (request.op === "open") return await open(request);
  if (sequence === null) throw new Error("no model is open");
  const began = now();
  const took = (): PeerReply => {
    const { wallMs, cpuMs } = since(began);
    return { ms: wallMs, cpuMs };
  };
  switch (request.op) {
    case "prefill":
      await sequence.clearHistory();
      await sequence.evaluateWithoutGeneratingNewTokens(request.tokens as Token[]);
      return took();
    case "decode": {
      const start = sequence.nextTokenIndex;
      const stepMs: number[] = [];
      const tokens: number[] = [];
      let last = performance.now();
      const stream = sequence.evaluate([request.token as Token], { temperature: 0 });
      for await (const token of stream) {
        const time = performance.now();
        stepMs.push(time - last);
        tokens.push(token);
        last = time;
        if (tokens.length === request.steps) break;
      }
      const reply = { ...took(), stepMs, tokens };
      await sequence.eraseContextTokenRanges([{ start, end: sequence.nextTokenIndex }]);
      return reply;
    }
  }
}

if (import.meta.main) {
  const encoder = new TextEncoder();
  let rest = "";
  for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      let reply: PeerReply;
      try {
        reply = await answer(JSON.parse(line) as PeerRequest);
      } catch (error) {
        reply = { error: error instanceof Error ? error.message : String(error) };
      }
      await Deno.stdout.write(encoder.encode(`${JSON.stringify(reply)}\n`));
    }
  }
  Deno.exit(0);
}
