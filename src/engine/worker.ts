/** The engine's worker module: the only isolate that touches the device. @module */
import { createLocalEngine } from "./create.ts";
import { serveEngine, type WorkerScope } from "./worker_host.ts";

serveEngine(self as unknown as WorkerScope, createLocalEngine);
