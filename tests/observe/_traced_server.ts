/** A server over the scripted engine, in a process of its own whose spans Deno exports. @module */
import { createMetrics } from "../../src/observe/metrics/mod.ts";
import { Observer } from "../../src/observe/observer.ts";
import { createTracing } from "../../src/observe/tracing.ts";
import { openFakeServer } from "../server/_server.ts";

const tracing = await createTracing("tiny", "1.2.3");
const sinks = [createMetrics({ modelName: "tiny", version: "1.2.3" }), ...tracing ? [tracing] : []];
await using server = await openFakeServer({
  stepMs: 2,
  failAt: ({ promptIds }) => promptIds.length === 1 ? 1 : undefined,
  app: { observer: new Observer({ sinks }) },
});
console.log(server.url);
// Until the test has asked what it wants to.
await Deno.stdin.read(new Uint8Array(1));
