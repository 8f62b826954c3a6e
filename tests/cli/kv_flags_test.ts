import { assert } from "std-testing";
import type { KvRequest } from "../../src/butler/settings.ts";
import { resolveFlags } from "../../src/cli/flags.ts";
import {
  kvFlags,
  kvRequest,
  predictorOptions,
  tierFlags,
  tierOptions,
} from "../../src/cli/kv_flags.ts";
import { sizeBytes } from "../../src/cli/values.ts";
import { DEFAULT_TIERS } from "../../src/engine/types.ts";

const noEnv = () => undefined;

function kvOf(line: string, env: Readonly<Record<string, string>> = {}): KvRequest {
  const args = line === "" ? [] : line.split(" ");
  return kvRequest(resolveFlags(kvFlags, args, (name) => env[name]).settings);
}

const tiersOf = (...args: string[]) => tierOptions(resolveFlags(tierFlags, args, noEnv).settings);

Deno.test("flags of the KV cache say nothing where nothing is said", () => {
  assert.deepEqual(kvOf(""), {});
  assert.deepEqual(tiersOf(), DEFAULT_TIERS);
});

Deno.test("flags of the KV cache say everything that a request can", () => {
  assert.deepEqual(
    kvOf(
      "--policy quest --sinks 0 --window 1 --budget 12.5% --interval 8 --neighbours " +
        "--dense-layers 3 --fetch ahead --recall-every 16",
    ),
    {
      policy: "quest",
      sinks: 0,
      window: 1,
      budget: { share: 0.125 },
      interval: 8,
      neighbours: true,
      denseLayers: 3,
      fetch: "ahead",
      recallEvery: 16,
    },
  );
  assert.deepEqual(kvOf("--budget 256"), { budget: { rows: 256 } });
});

Deno.test("--neighbours is on, off or open", () => {
  assert.deepEqual(kvOf("--neighbours"), { neighbours: true });
  assert.deepEqual(kvOf("--no-neighbours"), { neighbours: false });
  const env = { TOKENBUTLER_NEIGHBOURS: "off" };
  assert.deepEqual(kvOf("", env), { neighbours: false });
  assert.deepEqual(kvOf("--neighbours", env), { neighbours: true });
});

Deno.test("--table is on, off or open", () => {
  assert.deepEqual(kvOf("--no-table"), { table: false });
  assert.deepEqual(kvOf("--table"), { table: true });
  assert.deepEqual(kvOf("--no-table --dense-layers 2"), { table: false, denseLayers: 2 });
  const env = { TOKENBUTLER_TABLE: "off" };
  assert.deepEqual(kvOf("", env), { table: false });
  assert.deepEqual(kvOf("--table", env), { table: true });
});

Deno.test("--importance-keys names a form", () => {
  const of = (...args: string[]) => resolveFlags(tierFlags, args, noEnv).settings.importanceKeys;
  assert.equal(of(), "f16");
  assert.equal(of("--importance-keys", "int8"), "int8");
  assert.throws(() => of("--importance-keys", "int4"), /--importance-keys: wanted f16 or int8/);
});

Deno.test("a predictor is named, looked for, or not wanted", () => {
  const of = (line: string, env: Readonly<Record<string, string>> = {}) => {
    const args = line === "" ? [] : line.split(" ");
    return predictorOptions(resolveFlags(tierFlags, args, (name) => env[name]).settings);
  };
  assert.deepEqual(of(""), { predictor: null, maxParameters: 0.012 });
  assert.equal(of("--predictor b.safetensors").predictor, "b.safetensors");
  assert.equal(of("", { TOKENBUTLER_PREDICTOR: "b" }).predictor, "b");
  assert.equal(of("--no-predictor").predictor, false);
  assert.equal(of("", { TOKENBUTLER_NO_PREDICTOR: "1" }).predictor, false);
  assert.equal(of("--max-parameters 0.5").maxParameters, 0.5);
  assert.throws(() => of("--predictor b --no-predictor"), /exclude each other/);
});

Deno.test("flags of the KV cache refuse what cannot be, with their name", () => {
  for (
    const [line, message] of [
      ["--policy lokki", /^--policy: wanted dense or oracle or .*, got "lokki"$/],
      ["--sinks 65537", /^--sinks: wanted a whole number from 0 to 65536/],
      ["--window 0", /^--window: wanted a whole number from 1/],
      ["--budget 0%", /^--budget: wanted a number of rows \(768\) or a share of all rows/],
      ["--budget 1.5", /^--budget: /],
      ["--interval 0", /^--interval: /],
      ["--fetch later", /^--fetch: wanted in-step or ahead/],
      ["--dense-layers 1 --kv-table x.json", /--kv-table and --dense-layers exclude each other/],
      ["--no-table --kv-table x.json", /--kv-table and --no-table exclude each other/],
      ["--table --kv-table x.json", /--kv-table and --table exclude each other/],
      ["--kv-table nowhere.json", /--kv-table: cannot read "nowhere.json"/],
    ] as const
  ) assert.throws(() => kvOf(line), { message }, line);
  assert.throws(() => tiersOf("--kv-disk-size", "1G"), /--kv-disk-size needs --kv-disk/);
  assert.throws(() => tiersOf("--kv-device", "0"), /^UsageError: --kv-device: wanted a size/);
});

Deno.test("--kv-table reads a file, and says what is wrong with it", async () => {
  const path = await Deno.makeTempFile();
  const table = { layers: [{ role: "dense" }, { role: "selected", budgets: [1, 2] }] };
  try {
    await Deno.writeTextFile(path, JSON.stringify(table));
    assert.deepEqual(kvOf(`--kv-table ${path}`), { table });
    for (
      const [content, message] of [
        ["{", /--kv-table \S+: wanted JSON, got "\{"/],
        ["[]", /--kv-table \S+: the table must be an object with `layers`, but is a list/],
        ['{"layers":[{"role":"wndow"}]}', /layers\[0\]\.role must be .*did you mean window\?/],
        ['{"layers":[{"role":"dense","bugdets":[1]}]}', /layers\[0\]\.bugdets is no member of a/],
      ] as const
    ) {
      await Deno.writeTextFile(path, content);
      assert.throws(() => kvOf(`--kv-table ${path}`), { message });
    }
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("flags of the tiers take sizes and folders", () => {
  assert.deepEqual(
    tiersOf(
      ..."--kv-device 512MiB --kv-host 0 --kv-disk d --kv-disk-size 2G".split(" "),
      ..."--prefix-dir p --prefix-dir-size 3MiB".split(" "),
    ),
    {
      deviceBytes: 512 * 2 ** 20,
      hostBytes: 0,
      diskDir: "d",
      diskBytes: 2 * 2 ** 30,
      prefixDir: "p",
      prefixBytes: 3 * 2 ** 20,
      prefixCache: true,
    },
  );
  assert.equal(tiersOf("--no-prefix-cache").prefixCache, false);
  assert.throws(() => tiersOf("--prefix-dir-size", "1G"), /needs --prefix-dir/);
  assert.throws(() => tiersOf("--no-prefix-cache", "--prefix-dir", "p"), /exclude each other/);
});

Deno.test("sizeBytes() takes bytes and units of two and of ten", () => {
  for (
    const [text, bytes] of [
      ["4096", 4096],
      ["0", 0],
      ["1B", 1],
      ["3k", 3 * 1024],
      ["3KiB", 3 * 1024],
      ["3kB", 3000],
      ["512MiB", 512 * 2 ** 20],
      ["10MB", 10_000_000],
      ["2G", 2 * 2 ** 30],
      ["2 GiB", 2 * 2 ** 30],
      ["2gb", 2e9],
      ["1.5G", 1.5 * 2 ** 30],
      [".5k", 512],
      ["1T", 2 ** 40],
      ["1TB", 1e12],
    ] as const
  ) assert.equal(sizeBytes(0).parse(text), bytes, text);
  for (const text of ["", "G", "-1", "1X", "1 G B", "1e9", "99999999T", "MiB5", "1,5G", "."]) {
    const issue = sizeBytes(0).safeParse(text).error?.issues[0];
    assert.match(issue?.message ?? "", /^wanted a size/, text);
  }
  assert.equal(sizeBytes(1).safeParse("0").success, false);
});
