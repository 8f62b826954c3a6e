/**
 * What stands in for `@std/testing` and `@std/assert` (bare name `std-testing` in deno.json):
 * Deno's own runner, `node:assert/strict` and `fast-check`.
 *
 * @module
 */
export { default as assert } from "node:assert/strict";
export { default as fc } from "fast-check";
