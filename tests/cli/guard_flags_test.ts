import { assert } from "std-testing";
import { UsageError } from "../../src/cli/flags.ts";
import {
  accessFlags,
  connectionLimits,
  guardNotes,
  guardOptions,
  limitFlags,
  requestLimits,
} from "../../src/cli/guard_flags.ts";
import { resolveFlags } from "../../src/cli/flags.ts";
import { DEFAULT_LIMITS } from "../../src/server/admission/limits.ts";
import { DEFAULT_CONNECTION_LIMITS } from "../../src/server/listener/listener.ts";

function guard(host: string, args: string[] = [], env: Record<string, string> = {}) {
  return guardOptions(resolveFlags(accessFlags, args, (name) => env[name]).settings, host);
}

Deno.test("an address that others reach needs a key, or --insecure", () => {
  for (const host of ["0.0.0.0", "::", "192.168.1.2", "myhost"]) {
    assert.throws(() => guard(host), {
      name: "UsageError",
      message: /--host .* can be reached from other machines.*--api-key.*--insecure/,
    });
    assert.deepEqual(guard(host, ["--api-key", "k"]).apiKeys, ["k"]);
    assert.deepEqual(guardNotes(guard(host, ["--api-key", "k"]), host), []);
    assert.equal(guardNotes(guard(host, ["--insecure"]), host).length, 1);
  }
  for (const host of ["127.0.0.1", "localhost", "::1"]) {
    assert.deepEqual(guard(host).apiKeys, []);
    assert.deepEqual(guardNotes(guard(host), host), []);
  }
});

Deno.test("keys come from flags, from the environment and from a file", async () => {
  assert.deepEqual(guard("::", ["--api-key", "a", "--api-key", "b"]).apiKeys, ["a", "b"]);
  assert.deepEqual(guard("::", [], { TOKENBUTLER_API_KEY: "a" }).apiKeys, ["a"]);
  assert.deepEqual(guard("::", [], { TOKENBUTLER_API_KEY: '["a","b"]' }).apiKeys, ["a", "b"]);
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(path, "# team one\nc\r\n\n  d  \n");
    const both = guard("::", ["--api-key", "a", "--api-key-file", path]);
    assert.deepEqual(both.apiKeys, ["a", "c", "d"]);
    await Deno.writeTextFile(path, "# nobody\n\n");
    assert.throws(() => guard("::", ["--api-key-file", path]), /has no keys/);
    await Deno.writeTextFile(path, "fine\nmy secret\n");
    assert.throws(() => guard("::", ["--api-key-file", path]), (error: unknown) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, /key 2 of/);
      assert.ok(!error.message.includes("secret"), "a key must not be shown");
      return true;
    });
  } finally {
    await Deno.remove(path);
  }
  assert.throws(() => guard("::", ["--api-key-file", `${path}.none`]), /there is no such file/);
});

Deno.test("a key that is wrong is not shown, wherever it comes from", () => {
  const refusals = [
    () => guard("::", ["--api-key", "my secret"]),
    () => guard("::", ["--api-key=secret\u00fc"]),
    () => guard("::", [], { TOKENBUTLER_API_KEY: "my secret" }),
    () => guard("::", [], { TOKENBUTLER_API_KEY: '["secret", 5]' }),
    () => guard("::", [], { TOKENBUTLER_API_KEY: '["secret' }),
    () => guard("::", [], { TOKENBUTLER_API_KEY: '["fine", "my secret"]' }),
  ];
  for (const refusal of refusals) {
    assert.throws(refusal, (error: unknown) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, /^(--api-key|TOKENBUTLER_API_KEY): wanted /);
      assert.ok(!error.message.includes("secret"), error.message);
      return true;
    });
  }
});

Deno.test("names and origins are checked before the server starts", () => {
  const loopback = guard("127.0.0.1", [
    "--allowed-host",
    "A.Example",
    "--cors-origin",
    "localhost",
  ]);
  assert.deepEqual(loopback.allowedHosts, ["a.example", "127.0.0.1"]);
  assert.deepEqual(loopback.corsOrigins, ["localhost"]);
  assert.equal(guard("0.0.0.0", ["--insecure"]).allowedHosts, null);
  assert.throws(() => guard("::1", ["--allowed-host", "http://a.example"]), UsageError);
  assert.throws(() => guard("::1", ["--cors-origin", "a.example"]), UsageError);
  const open = guard("127.0.0.1", ["--cors-origin", "*"]);
  assert.match(guardNotes(open, "127.0.0.1").join(), /every web page/);
});

Deno.test("the flags of limits say what holds anyway", () => {
  const { settings } = resolveFlags(limitFlags, [], () => undefined);
  assert.deepEqual({ ...DEFAULT_LIMITS, ...requestLimits(settings) }, DEFAULT_LIMITS);
  const { unreadMs: _, ...connections } = DEFAULT_CONNECTION_LIMITS;
  assert.deepEqual(connectionLimits(settings), connections);
  const none = resolveFlags(limitFlags, ["--request-timeout", "0"], () => undefined).settings;
  assert.equal(requestLimits(none).requestTimeoutMs, null);
  const patient = resolveFlags(limitFlags, ["--body-timeout", "1000"], () => undefined).settings;
  for (const { bodyTotalMs } of [requestLimits(patient), connectionLimits(patient)]) {
    assert.equal(bodyTotalMs, 1_000_000);
  }
});
