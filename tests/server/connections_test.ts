import { assert } from "std-testing";
import { resolveFlags } from "../../src/cli/flags.ts";
import { connectionLimits, limitFlags } from "../../src/cli/guard_flags.ts";
import { clientOf, Connections, MOST_TOGETHER } from "../../src/server/listener/connections.ts";
import { UnreadSockets } from "../../src/server/listener/unread.ts";

Deno.test("clientOf() takes an IPv4 address as it is, and the network of an IPv6 one", () => {
  assert.equal(clientOf("192.0.2.7"), "192.0.2.7");
  assert.equal(clientOf("::ffff:192.0.2.7"), "192.0.2.7");
  assert.equal(clientOf("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2");
  assert.equal(clientOf("2001:db8:1:2::1"), clientOf("2001:DB8:1:2:ffff::"));
  assert.equal(clientOf("2001:0db8::1"), "2001:db8:0:0");
  assert.notEqual(clientOf("2001:db8:1:2::1"), clientOf("2001:db8:1:3::1"));
  assert.equal(clientOf("fe80::1%eth0"), "fe80:0:0:0");
  assert.equal(clientOf("::1"), "0:0:0:0");
});

Deno.test("Connections counts each client by itself and forgets who is gone", () => {
  const connections = new Connections(2);
  assert.deepEqual([1, 2, 3].map(() => connections.add("192.0.2.1")), ["serve", "serve", "refuse"]);
  assert.equal(connections.add("192.0.2.2"), "serve");
  connections.remove("192.0.2.1");
  connections.remove("192.0.2.1");
  assert.equal(connections.of("192.0.2.1"), 1);
  assert.equal(connections.add("192.0.2.1"), "serve");
  for (let i = 0; i < 16; i++) connections.add("192.0.2.1");
  assert.equal(connections.add("192.0.2.1"), "close");
  for (let i = 0; i < 30; i++) connections.remove("192.0.2.1");
  assert.equal(connections.of("192.0.2.1"), 0);
});

Deno.test("Connections closes what many clients have together beyond the bound of all", () => {
  const connections = new Connections(256);
  const addresses = Array.from({ length: 3000 }, (_, i) => `192.0.${i >> 8}.${i & 255}`);
  const verdicts = addresses.map((address) => connections.add(address));
  assert.equal(verdicts.lastIndexOf("serve"), 2047);
  assert.ok(verdicts.slice(2048).every((verdict) => verdict === "close"));
  // One that was closed is counted until it is gone.
  for (const address of addresses.slice(2048)) connections.remove(address);
  assert.equal(connections.add("198.51.100.1"), "close");
  for (const address of [...addresses.slice(0, 2), "198.51.100.1"]) connections.remove(address);
  connections.remove("198.51.100.9");
  assert.deepEqual([1, 2, 3].map(() => connections.add("198.51.100.1")), [
    "serve",
    "serve",
    "close",
  ]);
  // A proxy that may have more has more.
  const proxied = new Connections(3000);
  assert.ok(addresses.every(() => proxied.add("192.0.2.1") === "serve"));
});

Deno.test("Connections has no bound of one client where it is 0, and keeps that of all", () => {
  const connections = new Connections(0);
  for (let i = 0; i < MOST_TOGETHER; i++) assert.equal(connections.add("192.0.2.1"), "serve");
  assert.equal(connections.add("192.0.2.1"), "close");
  assert.equal(connections.add("192.0.2.2"), "close");
});

Deno.test("UnreadSockets closes those whose clients take nothing, and no others", () => {
  const closed: string[] = [];
  const socket = (name: string) => ({
    writableLength: 0,
    bytesWritten: 0,
    destroy: () => void closed.push(name),
  });
  const [idle, deaf, slow, gone] = ["idle", "deaf", "slow", "gone"].map(socket);
  const unread = new UnreadSockets(100);
  for (const each of [idle!, deaf!, slow!, gone!]) unread.add(each);
  for (const each of [deaf!, slow!, gone!]) each.writableLength = each.bytesWritten = 500;
  for (let nowMs = 1000; nowMs <= 1090; nowMs += 30) {
    unread.look(nowMs);
    // It takes as much as it gets.
    slow!.bytesWritten += 10;
  }
  assert.deepEqual(closed, []);
  unread.remove(gone!);
  unread.look(1100);
  assert.deepEqual(closed, ["deaf"]);
});

Deno.test("--help says how many connections there are together", () => {
  assert.match(limitFlags.maxConnections.help, new RegExp(`together have ${MOST_TOGETHER},`));
  const { settings } = resolveFlags(limitFlags, ["--max-connections", "0"], () => undefined);
  assert.equal(connectionLimits(settings).maxConnectionsPerAddress, 0);
});
