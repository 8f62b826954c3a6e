/**
 * What stands in for `@std/http` (bare name `std-http` in deno.json): routing by hono. The rest of
 * the program imports the bare name, so that a switch is one line.
 *
 * @module
 */
export { Hono } from "hono";
export type { Context } from "hono";
