/**
 * What stands in for `@std/testing` and `@std/assert` (bare name `std-testing` in deno.json):
 * Deno's own runner, `node:assert/strict` and `fast-check`.
 *
 * @module
 */
export { default as assert } from "node:assert/strict";
export { default as fc } from "fast-check";

/**
 * Bytes that this isolate holds: its heap and its buffers. Not those of the process, which other test
 * files run in at the same time.
 */
export function memoryInUse(): number {
  const { heapTotal, external } = Deno.memoryUsage();
  return heapTotal + external;
}
