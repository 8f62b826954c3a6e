/** How benchmark clients read a stream of a chat, written anew from what their sources do. @module */
import { z } from "zod";
import { chatChunk } from "./_wire.ts";

const failed = z.object({ error: z.object({ message: z.string() }) });

/**
 * How llmperf reads a stream: six bytes off each line that is not empty, the rest is JSON, and has a
 * choice unless it is an error.
 */
export function llmperfText(body: string): string {
  let text = "";
  for (const line of body.split("\n").map((line) => line.trim())) {
    if (line === "") continue;
    const stem = line.slice("data: ".length);
    if (stem === "[DONE]") continue;
    const data = JSON.parse(stem);
    if ("error" in data) throw new Error(failed.parse(data).error.message);
    const { choices: [choice] } = chatChunk.parse(data);
    if (choice === undefined) throw new RangeError("a chunk without a choice");
    text += choice.delta.content ?? "";
  }
  return text;
}

/** The pieces in which a body comes from the network. */
export async function piecesOf({ body }: Response): Promise<string[]> {
  return body === null ? [] : await Array.fromAsync(body.pipeThrough(new TextDecoderStream()));
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * How `vllm bench serve` cuts a stream into messages: each piece loses the blanks at its ends, line
 * ends included; what is whole between two line ends is a message, and so is a rest that is JSON.
 */
function* vllmBenchMessages(pieces: readonly string[]): Generator<string> {
  let buffer = "";
  for (const piece of pieces.map((piece) => piece.trim())) {
    if (piece === "") continue;
    const parts = (buffer + piece).split("\n\n");
    buffer = parts.pop() ?? "";
    yield* parts.map((part) => part.trim()).filter((part) => part !== "");
    const rest = buffer.startsWith("data: ") ? buffer.slice("data: ".length).trim() : "";
    if (rest === "[DONE]" || (rest !== "" && isJson(rest))) {
      yield buffer.trim();
      buffer = "";
    }
  }
}

/** How it reads the messages: comments are skipped, `data: ` is taken off, usage comes alone. */
export function vllmBenchText(pieces: readonly string[]) {
  let text = "";
  let completionTokens = 0;
  for (const message of vllmBenchMessages(pieces)) {
    if (message.startsWith(":")) continue;
    const chunk = message.startsWith("data: ") ? message.slice("data: ".length) : message;
    if (chunk === "[DONE]") continue;
    const { choices, usage } = chatChunk.parse(JSON.parse(chunk));
    if (choices.length > 0) text += choices[0]?.delta.content ?? "";
    else completionTokens = usage?.completion_tokens ?? 0;
  }
  return { text, completionTokens };
}
