/** How benchmark clients read a stream of a chat, written anew from their sources. @module */
import { chatChunk } from "./_wire.ts";

/** How llmperf reads a stream: six bytes off each line that is not empty, the rest is JSON. */
export function llmperfText(body: string): string {
  let text = "";
  for (const line of body.split("\n").map((line) => line.trim())) {
    if (line === "") continue;
    const stem = line.slice("data: ".length);
    if (stem === "[DONE]") continue;
    text += chatChunk.parse(JSON.parse(stem)).choices[0]?.delta.content ?? "";
  }
  return text;
}

/** How `vllm bench serve` reads one: whole events, comments skipped, `data: ` taken off. */
export function vllmBenchText(body: string): { text: string; completionTokens: number } {
  let text = "";
  let completionTokens = 0;
  for (const message of body.split("\n\n").map((part) => part.trim())) {
    if (message === "" || message.startsWith(":")) continue;
    const chunk = message.startsWith("data: ") ? message.slice("data: ".length) : message;
    if (chunk === "[DONE]") continue;
    const { choices, usage } = chatChunk.parse(JSON.parse(chunk));
    if (choices.length > 0) text += choices[0]?.delta.content ?? "";
    else completionTokens = usage?.completion_tokens ?? 0;
  }
  return { text, completionTokens };
}
