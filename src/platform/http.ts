/**
 * What stands in for `@std/http` (bare name `std-http` in deno.json): routing and CORS by hono, and its
 * adapter from node:http. The rest of the program imports the bare name, so that a switch is one
 * line.
 *
 * @module
 */
export { getRequestListener } from "@hono/node-server";
export { Hono } from "hono";
export { cors } from "hono/cors";
export { matchedRoutes } from "hono/route";
export type { Context, MiddlewareHandler } from "hono";
