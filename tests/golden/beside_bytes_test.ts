/** Device memory that a longer context takes beside the rows of keys and values: measured, not planned. */
import type { KvRequest } from "../../src/butler/settings.ts";
import { DEFAULT_TIERS } from "../../src/engine/types.ts";
import { assert } from "std-testing";
import { openEngine } from "./_engine.ts";
import { figure } from "./_golden.ts";
import { makeCalibration, offloadedModel, onDevice, textIds } from "./_offload.ts";
import { request, run } from "./_requests.ts";

const PATH = await offloadedModel();
const CALIBRATION = await makeCalibration();
/** Keys and values of a token: 3 layers, 2 KV heads of 32 values, in f32. */
const DENSE_BYTES = 3 * 2 * 2 * 32 * 4;
const SOME: KvRequest = { sinks: 8, window: 16, budget: { rows: 24 } };

/** Notes the bytes of all buffers by label, for as long as it lives. */
class Buffers implements Disposable {
  readonly #create = GPUDevice.prototype.createBuffer;
  readonly bytes = new Map<string, number>();

  constructor() {
    const create = this.#create;
    const add = (label: string, bytes: number) =>
      this.bytes.set(label, (this.bytes.get(label) ?? 0) + bytes);
    GPUDevice.prototype.createBuffer = function (descriptor) {
      const buffer = create.call(this, descriptor);
      const { label = "", size } = descriptor;
      add(label, size);
      const destroy = buffer.destroy.bind(buffer);
      let there = true;
      buffer.destroy = () => {
        if (there) add(label, -size);
        there = false;
        destroy();
      };
      return buffer;
    };
  }

  [Symbol.dispose](): void {
    GPUDevice.prototype.createBuffer = this.#create;
  }
}

/** Bytes by label once a request runs that may fill such a context, with little room for its rows. */
async function bytesOf(kv: KvRequest, contextLength: number): Promise<Map<string, number>> {
  using buffers = new Buffers();
  await using opened = await openEngine(PATH, {
    contextLength,
    calibration: CALIBRATION,
    tiers: { ...DEFAULT_TIERS, ...onDevice(9), prefixCache: false },
  });
  const { engine } = opened;
  const wanted = request(textIds(200, 320), contextLength - 200, { kv });
  let found = new Map<string, number>();
  const answer = await run(engine, wanted, (count) => {
    if (count !== 2) return;
    found = new Map(buffers.bytes);
    engine.cancel(wanted.id);
  });
  assert.equal(answer.reason, "cancelled");
  return found;
}

Deno.test("keys to choose by and tables grow by at most 14 % of what rows take", async () => {
  for (const policy of ["loki", "quest", "h2o"] as const) {
    const short = await bytesOf({ ...SOME, policy }, 512);
    const long = await bytesOf({ ...SOME, policy }, 1024);
    const grown = (named: (label: string) => boolean) =>
      [...long].reduce(
        (sum, [label, bytes]) => sum + (named(label) ? (bytes - (short.get(label) ?? 0)) / 512 : 0),
        0,
      );
    // A stage grows up to 4 MiB, and with it the list of what is on it.
    const staged = (label: string) => label.startsWith("stage");
    const kept = (label: string) => /^importance|table|pages|view/.test(label) && !staged(label);
    const share = grown(kept) / DENSE_BYTES;
    const rest = grown((label) => !kept(label) && !staged(label)) / DENSE_BYTES;
    console.log(`${policy}: ${figure(share)} of the rows' bytes, scores ${figure(rest)}`);
    assert.ok(share > 0.12 && share <= 0.14, `${policy}: ${share}`);
    assert.ok(rest < 0.03, `${policy}: ${rest} beside that`);
  }
});
