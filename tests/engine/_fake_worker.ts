/** The worker of `worker_test.ts`: the real host, the fake engine. The model path says how it acts. */
import { DeviceError } from "../../src/gpu/device.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { serveEngine, type WorkerScope } from "../../src/engine/worker_host.ts";
import { tableOf } from "../butler/_tables.ts";
import { BUSY_STEP_MS, fakeEngine } from "./_fake_engine.ts";

const TABLE = tableOf(["window", "selected"], [[[0, 0], [3, 5]], [[0, 0], [30, 90]]]);

function blockForever(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

function loopForever(): void {
  for (;;);
}

/** As a worker does that waits for the device: nothing else gets a turn. */
function busyStep(): void {
  const until = performance.now() + BUSY_STEP_MS;
  while (performance.now() < until);
}

function stepOf(modelPath: string): () => void | Promise<void> {
  switch (modelPath) {
    case "blocks":
      return blockForever;
    case "loops":
      return loopForever;
    case "is busy":
      return busyStep;
    case "crashes":
      return () => {
        setTimeout(() => {
          throw new Error("a bug far from any request");
        });
        return new Promise(() => {});
      };
    case "never calls back":
      return () => new Promise(() => {});
    case "loses its device":
      return () => {
        throw new DeviceError("lost", "the driver was reset");
      };
    default:
      return () => {};
  }
}

serveEngine(self as unknown as WorkerScope, (options, onProgress) => {
  const { modelPath } = options;
  onProgress({ phase: "weights", fraction: 0.5 });
  switch (modelPath) {
    case "bad model":
      throw new ModelFileError("truncated", "some.gguf", "some.gguf ends early");
    case "bad device":
      throw new DeviceError("no_adapter", "no adapter was found");
    case "bug":
      throw new TypeError("not a function");
    case "dies while loading":
      setTimeout(() => {
        throw new Error("out of luck");
      });
      return new Promise(() => {});
    case "never starts":
      return new Promise(() => {});
  }
  const { engine, runner } = fakeEngine({
    budgetTable: modelPath === "has a table" ? TABLE : null,
    maxSequences: options.maxSequences,
    ...(options.contextLength === null ? {} : { contextLength: options.contextLength }),
  });
  runner.silent = true;
  runner.before = stepOf(modelPath);
  onProgress({ phase: "ready", fraction: 1 });
  return Promise.resolve(engine);
});
