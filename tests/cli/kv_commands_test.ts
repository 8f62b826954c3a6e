import { assert } from "std-testing";
import { type KvReport, resolveKv } from "../../src/butler/settings.ts";
import { runCommand } from "../../src/cli/cli.ts";
import { command as doctor } from "../../src/cli/commands/doctor.ts";
import { Report } from "../../src/cli/commands/doctor/report.ts";
import { flags as doctorFlags } from "../../src/cli/commands/doctor/settings.ts";
import { tierSection } from "../../src/cli/commands/doctor/tiers.ts";
import { chatCommand } from "../../src/cli/commands/chat.ts";
import { generateCommand } from "../../src/cli/commands/generate.ts";
import { resolveFlags } from "../../src/cli/flags.ts";
import { scoreCommand } from "../../src/cli/commands/score.ts";
import { FakeIo } from "./_io.ts";
import { fakeSession } from "./_session.ts";

/** What an engine reports that ran with `loki`. */
const REPORT: KvReport = {
  policy: "loki",
  settings: resolveKv({ policy: "loki" }, { numLayers: 2, numKvHeads: 2 }, {
    fits: false,
    canProject: true,
    canPredict: false,
  }).settings,
  rowsPerStep: 1023.6,
  bytesPerStep: 4096,
  residentShare: 0.8125,
  tiers: { device: 1, host: 2, disk: 3 },
  recall: null,
  notes: ["a note"],
};

Deno.test("generate and score say what was done with the KV cache", async () => {
  const session = (report: KvReport) =>
    fakeSession({ kvReport: () => report, reply: ({ forcedIds }) => forcedIds ?? [1] }).open;
  const ids = ["--ids", "[1,2,3,4,5]"];
  for (const command of [generateCommand, scoreCommand]) {
    const io = new FakeIo();
    await runCommand(command(session(REPORT)), ids, io);
    assert.equal(
      io.err,
      "note: a note\nKV cache: loki, 1024 rows a step, 81.3 % of the wanted rows resident\n",
    );
    const json = new FakeIo();
    await runCommand(command(session(REPORT)), [...ids, "--json"], json);
    assert.equal(json.err, "");
    const { kv } = JSON.parse(json.out);
    assert.equal(kv.policy, "loki");
    assert.equal(kv.rows_per_step, 1023.6);
    assert.deepEqual(kv.notes, ["a note"]);
    const dense = new FakeIo();
    await runCommand(command(session({ ...REPORT, policy: "dense", notes: [] })), ids, dense);
    assert.equal(dense.err, "");
  }
});

Deno.test("commands with a model pass the settings of the KV cache on", async () => {
  const args = "--policy oracle --budget 5% --no-neighbours --kv-device 1M --calibration c.bin";
  const texts = [
    [generateCommand, "--ids [1]"],
    [scoreCommand, "--ids [1,2,3]"],
    [chatCommand, "--max-tokens 1"],
  ] as const;
  for (const [command, more] of texts) {
    const { seen, open } = fakeSession({ reply: ({ forcedIds }) => forcedIds ?? [1] });
    const line = `${more} ${args}`.split(" ");
    assert.equal(await runCommand(command(open), line, new FakeIo({ lines: ["a"] })), 0);
    assert.deepEqual(seen.options?.kv, {
      policy: "oracle",
      budget: { share: 0.05 },
      neighbours: false,
    });
    assert.equal(seen.options?.tiers.deviceBytes, 2 ** 20);
    assert.equal(seen.options?.calibration, "c.bin");
  }
});

Deno.test("doctor shows where the rows of a sequence lie", async () => {
  const io = new FakeIo();
  const line =
    "--quick --context 4096 --kv-device 10MiB --kv-host 40MiB --budget 128 --kv-disk-size 1G";
  assert.equal(await runCommand(doctor, [...line.split(" "), "--kv-disk", "anywhere"], io), 0);
  const text = io.out.replace(/\s+/g, " ");
  for (
    const wanted of [
      "sequence 4096 tokens, tokenbutler: 64 sinks, a window of 192, a budget of 128 rows",
      "device 10.5 MB of 10.5 MB: dense layers ",
      "beside that importance keys 11.8 MB, tables and lists ",
      "host 41.3 MB of 41.3 MB",
      "disk 54.9 MB of 1.1 GB",
      "on the device as a whole up to 448 tokens",
      "longest that runs 4096 tokens, with what does not fit the device on host and disk",
    ]
  ) assert.ok(text.includes(wanted), `${wanted}: ${text}`);
  // Nothing is made where the rows would lie.
  await assert.rejects(Deno.stat("anywhere"));
  const bad = new FakeIo();
  const args = ["--quick", "--context", "64", "--dense-layers", "99"];
  assert.equal(await runCommand(doctor, args, bad), 1);
  assert.match(bad.out, /PROBLEM: .*dense_layers/);
});

Deno.test("doctor finds fault with what serve would refuse", async () => {
  for (
    const [args, problem] of [
      [["--kv-device", "1KiB"], /PROBLEM: there is no room for a page/],
      [["--kv-disk", "README.md"], /PROBLEM: --kv-disk README\.md: there is a file in its place/],
      [["--prefix-dir", "README.md"], /PROBLEM: --prefix-dir README\.md: there is a file/],
      [["--kv-disk", "not-there-yet"], null],
    ] as const
  ) {
    const io = new FakeIo();
    const report = new Report(io);
    const { settings } = resolveFlags(doctorFlags, [...args], () => undefined);
    // As without a device: none of this needs one.
    await tierSection(report, settings, undefined, null);
    assert.equal(report.failed, problem !== null, io.out);
    if (problem !== null) assert.match(io.out.replace(/\s+/g, " "), problem);
  }
});
