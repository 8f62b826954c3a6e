import { assert } from "std-testing";
import { CalibrationError } from "../../src/butler/calibration/errors.ts";
import { PredictorError } from "../../src/butler/predictor/errors.ts";
import { KvSettingsError } from "../../src/butler/settings.ts";
import { CommandError, MisfitError } from "../../src/cli/command.ts";
import { EngineLostError } from "../../src/cli/engine_keeper.ts";
import { exitCodeOf } from "../../src/cli/exit_codes.ts";
import { UsageError } from "../../src/cli/flags.ts";
import { engineFailure } from "../../src/cli/generation.ts";
import { errorFromData, errorToData } from "../../src/engine/protocol.ts";
import { DeviceError } from "../../src/gpu/device.ts";
import { StoreFolderError } from "../../src/kv/store/errors.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { TrainError } from "../../src/train/errors.ts";
import { MODEL, run } from "./_process.ts";

const system = (code: string) => Object.assign(new Error(code), { code });

Deno.test("exitCodeOf() tells what cannot work as asked from what may pass, also from a worker", () => {
  const misfit = new ModelFileError("not_found", "x", "there is no x");
  const cases: [Error, number][] = [
    [new UsageError("no flag"), 2],
    [new MisfitError("no such file"), 2],
    [new CommandError("the port is in use"), 1],
    [misfit, 2],
    [new KvSettingsError(["policy"], "needs a calibration"), 2],
    [new CalibrationError("wrong_model", "of another model"), 2],
    [new CalibrationError("not_writable", "a full disk"), 1],
    [new PredictorError("not_found", "there is none"), 2],
    [new PredictorError("not_writable", "a full disk"), 1],
    [new TrainError("wrong_run", "other text"), 2],
    [new TrainError("diverged", "no number any more"), 1],
    [new DeviceError("too_small", "no room for a page"), 2],
    [new DeviceError("bad_setting", "no such kernel"), 2],
    [new DeviceError("no_adapter", "a driver that is being loaded"), 1],
    [new DeviceError("out_of_memory", "others have it"), 1],
    [new DeviceError("lost", "gone"), 1],
    [new StoreFolderError("the folder", "--kv-disk", "a file", system("ENOTDIR")), 2],
    [new StoreFolderError("the folder", "--kv-disk", "full", system("ENOSPC")), 1],
    // Whatever it was: it worked before.
    [new EngineLostError("does not start again", { cause: misfit }), 1],
    [new Deno.errors.NotCapable("Requires net access"), 2],
    [new TypeError("a defect"), 1],
  ];
  for (const [error, code] of cases) {
    assert.equal(exitCodeOf(error), code, `${error}`);
    const isLocal = error instanceof CommandError || error instanceof UsageError;
    if (!isLocal) assert.equal(exitCodeOf(errorFromData(errorToData(error))), code, `${error}`);
  }
  assert.equal(exitCodeOf("text"), 1);
});

Deno.test("engineFailure() takes what would fail again for a misfit", () => {
  const code = (data: Parameters<typeof engineFailure>[0]) => exitCodeOf(engineFailure(data));
  assert.equal(code({ code: "invalid_request", message: "too long" }), 2);
  assert.equal(code({ code: "out_of_memory", message: "never fits", lasting: true }), 2);
  assert.equal(code({ code: "out_of_memory", message: "others have it" }), 1);
  assert.equal(code({ code: "device_lost", message: "gone" }), 1);
});

Deno.test("what a model or a device does not suit ends every command with exit code 2", async (t) => {
  const generate = ["generate", "--model", MODEL, "--prompt", "a", "--max-tokens", "1"];
  const cases: [string[], RegExp][] = [
    [[...generate, "--kernel", "nosuch=1"], /there is no kernel setting nosuch/],
    [[...generate, "--kernel", "readback=never"], /readback must be one of/],
    [[...generate, "--kv-device", "1"], /no room for a page of keys.*--kv-device is 1 bytes/],
    [[...generate, "--kernel", "subgroups=maybe"], /subgroups=maybe is not true or false/],
    [[...generate, "--kv-device", "20KiB", "--kv-host", "1"], /no tier has room for 32 rows/],
    [[...generate, "--policy", "loki"], /loki.*calibration/],
    [[...generate, "--predictor", "none.safetensors"], /none\.safetensors/],
    [[...generate, "--calibration", "none.safetensors"], /none\.safetensors/],
    [[...generate, "--kv-disk", "deno.json"], /deno\.json.*a file in its place.*--kv-disk/],
    [["generate", "--prompt", ""], /the text is empty/],
    [["serve", "--port", "0", "--model", MODEL, "--slot-dir", "deno.json"], /--slot-dir/],
  ];
  for (const [args, message] of cases) {
    await t.step(args.slice(-3).join(" "), async () => {
      const { code, stderr } = await run(args);
      assert.match(stderr, message);
      assert.equal(code, 2, stderr);
      assert.doesNotMatch(stderr, /defect|\n +at /);
    });
  }
});

Deno.test("serve --supervise ends with 2 where its process cannot work as asked", async () => {
  const { code, stdout, stderr } = await run(["serve", "--supervise", "--model", "none.gguf"]);
  assert.equal(code, 2, stderr);
  assert.equal(stdout, "");
  assert.match(stderr, /none\.gguf/);
  assert.match(stderr, /ended with exit code 2 after \d+ s: it cannot work as asked, and is not/);
  assert.equal(stderr.match(/ serves\n/g)?.length, 1, stderr);
});
