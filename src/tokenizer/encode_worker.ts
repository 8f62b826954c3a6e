/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
/**
 * Worker that encodes long texts, so that nobody else waits for them and one that takes too long
 * can be ended. One request at a time, one reply to each.
 *
 * @module
 */

import { openModel } from "../model/open.ts";
import { type EncodeReply, type EncodeRequest, PROBE } from "./encode_protocol.ts";
import { loadTokenizer } from "./load.ts";
import type { Tokenizer } from "./types.ts";

let tokenizer: Tokenizer | undefined;

async function open(path: string): Promise<Tokenizer> {
  const source = await openModel(path);
  try {
    if (source.tokenizer === undefined) throw new Error("the model has no tokenizer any more");
    return loadTokenizer(source.tokenizer, path, source.config.vocabSize);
  } finally {
    source.close();
  }
}

async function answer(request: EncodeRequest): Promise<EncodeReply> {
  try {
    if (request.type === "open") {
      tokenizer = await open(request.path);
      const probe = tokenizer.encode(PROBE.text, PROBE);
      return { type: "ready", vocabSize: tokenizer.vocabSize, probe };
    }
    if (tokenizer === undefined) throw new Error("there is no tokenizer yet");
    const loaded = tokenizer;
    const ids = request.parts.map((part) => Uint32Array.from(loaded.encode(part.text, part)));
    return { type: "ids", ids };
  } catch (error) {
    return { type: "failed", message: error instanceof Error ? error.message : String(error) };
  }
}

self.onmessage = async (event: MessageEvent<EncodeRequest>) => {
  const reply = await answer(event.data);
  self.postMessage(reply, reply.type === "ids" ? reply.ids.map((ids) => ids.buffer) : []);
};
