import { assert } from "std-testing";
import { ApiKeys, keysOf } from "../../src/server/guard/keys.ts";
import {
  hostName,
  isAllowedHost,
  isListedOrigin,
  isLoopback,
  isOriginEntry,
  isSameOrigin,
} from "../../src/server/guard/origins.ts";
import { openFakeServer } from "./_server.ts";
import { failure, readAs } from "./_wire.ts";

Deno.test("ApiKeys knows its keys, whole and exact, and gives each a scope of its own", () => {
  const keys = new ApiKeys(["first-key", "second-key", "first-key"]);
  const [first, second] = [keys.scopeOf("first-key"), keys.scopeOf("second-key")];
  assert.match(first ?? "", /^[0-9a-f]{32}$/);
  assert.notEqual(first, second);
  assert.equal(new ApiKeys(["first-key"]).scopeOf("first-key"), first);
  for (const wrong of ["", "first", "first-keyx", "FIRST-KEY", " first-key", "third-key"]) {
    assert.equal(keys.scopeOf(wrong), undefined, wrong);
  }
  assert.ok(keys.required && !new ApiKeys([]).required);
  assert.throws(() => new ApiKeys([""]), RangeError);
});

Deno.test("check 9: ApiKeys compares digests by timingSafeEqual, all of them each time", async () => {
  const source = await Deno.readTextFile(
    new URL("../../src/server/guard/keys.ts", import.meta.url),
  );
  assert.match(source, /timingSafeEqual\(asked, digest\)/);
  assert.doesNotMatch(source, /[!=]==? *(?:key|asked|digest)\b/);
});

Deno.test("keysOf() reads a bearer token and x-api-key", () => {
  const of = (headers: Record<string, string>) => keysOf(new Headers(headers));
  assert.deepEqual(of({ authorization: "Bearer abc" }), ["abc"]);
  assert.deepEqual(of({ authorization: "bearer  abc " }), ["abc"]);
  assert.deepEqual(of({ "x-api-key": "abc" }), ["abc"]);
  assert.deepEqual(of({ authorization: "Basic abc", "x-api-key": "d" }), ["d"]);
  assert.deepEqual(of({ authorization: "Bearer" }), []);
  assert.deepEqual(of({}), []);
});

Deno.test("hostName() takes the name out of a Host header", () => {
  for (
    const [header, name] of [
      ["localhost:8080", "localhost"],
      ["A.Example.", "a.example"],
      ["127.0.0.1", "127.0.0.1"],
      ["[::1]:80", "::1"],
      ["", ""],
      ["user@host", ""],
      ["a b", ""],
      ["host:port", ""],
      ["a/b", ""],
    ] as const
  ) assert.equal(hostName(header), name);
});

Deno.test("isAllowedHost() takes addresses, localhost and what is listed", () => {
  for (const host of ["127.0.0.1:1", "10.0.0.1", "[::1]:1", "localhost", "a.localhost:1", "mine"]) {
    assert.ok(isAllowedHost(host, ["mine"]), host);
  }
  for (const host of ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "notmine", ""]) {
    assert.ok(!isAllowedHost(host, ["mine"]), host);
  }
});

Deno.test("isLoopback() tells what only this machine reaches", () => {
  for (const host of ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"]) {
    assert.ok(isLoopback(host), host);
  }
  for (const host of ["0.0.0.0", "::", "10.0.0.1", "127.evil.example", "myhost", "::2"]) {
    assert.ok(!isLoopback(host), host);
  }
});

Deno.test("origins are listed exactly, as localhost, or all", () => {
  const entries = ["https://a.example", "http://a.example:81", "*", "localhost"];
  for (const entry of entries) assert.ok(isOriginEntry(entry), entry);
  for (const entry of ["a.example", "https://a.example/", "https://a.example/x", "null", ""]) {
    assert.ok(!isOriginEntry(entry), entry);
  }
  assert.ok(isListedOrigin("https://a.example", ["https://a.example"]));
  assert.ok(!isListedOrigin("http://a.example", ["https://a.example"]));
  assert.ok(!isListedOrigin("https://a.example.evil", ["https://a.example"]));
  assert.ok(isListedOrigin("http://localhost:3000", ["localhost"]));
  assert.ok(isListedOrigin("http://[::1]:3000", ["localhost"]));
  assert.ok(!isListedOrigin("http://localhost.evil:3000", ["localhost"]));
  assert.ok(!isListedOrigin("null", ["localhost"]) && isListedOrigin("null", ["*"]));
  assert.ok(isSameOrigin("https://a.example", "A.example"));
  assert.ok(!isSameOrigin("https://a.example", "a.example:8080"));
  assert.ok(!isSameOrigin("null", "null"));
});

const GUARD = { apiKeys: [], allowedHosts: ["127.0.0.1"], corsOrigins: ["https://a.example"] };

Deno.test("a listed origin may read answers and errors; another is refused and told nothing", async () => {
  await using server = await openFakeServer({ app: { guard: GUARD } });
  const from = (origin: string, path: string) =>
    fetch(`${server.url}${path}`, { headers: { origin } });
  for (const [path, status] of [["/health", 200], ["/nowhere", 404]] as const) {
    const listed = await from("https://a.example", path);
    assert.equal(listed.status, status);
    assert.equal(listed.headers.get("access-control-allow-origin"), "https://a.example");
    const exposed = listed.headers.get("access-control-expose-headers")?.split(",");
    assert.deepEqual(exposed, ["x-request-id", "retry-after", "x-should-retry"]);
    assert.match(listed.headers.get("vary") ?? "", /origin/i);
    await listed.body?.cancel();
  }
  for (const origin of ["https://evil.example", "null", "http://localhost:3000"]) {
    const other = await from(origin, "/health");
    assert.equal(other.headers.get("access-control-allow-origin"), null);
    assert.equal((await readAs(failure, other, 403)).error.code, "origin_not_allowed");
  }
  const same = await from(server.url, "/health");
  assert.equal(same.status, 200);
  await same.body?.cancel();
});

Deno.test("a preflight is 204 without a key, and says yes to listed origins only", async () => {
  await using server = await openFakeServer({ app: { guard: { ...GUARD, apiKeys: ["k"] } } });
  const preflight = async (origin: string) => {
    const response = await fetch(`${server.url}/v1/chat/completions`, {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
      },
    });
    assert.equal(response.status, 204);
    assert.equal(await response.text(), "");
    return response.headers;
  };
  const yes = await preflight("https://a.example");
  assert.equal(yes.get("access-control-allow-origin"), "https://a.example");
  assert.match(yes.get("access-control-allow-headers") ?? "", /authorization/);
  assert.match(yes.get("access-control-allow-methods") ?? "", /POST/);
  const no = await preflight("https://evil.example");
  assert.equal(no.get("access-control-allow-origin"), null);
});
