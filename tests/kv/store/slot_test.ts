import { assert, fc } from "std-testing";
import { createHash } from "node:crypto";
import { Conversations } from "../../../src/kv/store/conversations.ts";
import { SlotFolder } from "../../../src/kv/store/slot_folder.ts";
import type { RowStore } from "../../../src/kv/store/row_store.ts";
import { SlotError } from "../../../src/kv/store/errors.ts";
import { systemFiles } from "../../../src/kv/store/file_ops.ts";
import { reasonWithoutPath } from "../../../src/kv/store/spill_folder.ts";
import { MemoryFiles } from "./_memory_files.ts";
import { makePart, makeStore, SHAPE, SIZES } from "./_store.ts";

const CONTEXT = 1024;

function ids(count: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => i + 7);
}

/** A store whose conversations are saved in `/slots`. */
function open(files = new MemoryFiles(), options: { fingerprint?: string; most?: number } = {}) {
  const { fingerprint = "model", most } = options;
  const { store } = makeStore(16, null, { files, fingerprint });
  const digest = createHash("sha256").update(store.fingerprint).digest();
  const folder = new SlotFolder(SIZES, digest, files, "/slots", most);
  return { files, store, conversations: new Conversations(store, folder) };
}

function offer(store: RowStore, count: number, seed: number, salt = ""): void {
  using sequence = store.open();
  store.prefixKeys(ids(count), salt).forEach((key, index) => {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      sequence.putPart(index, layer, makePart(seed + 10 * index + layer));
    }
    store.offerPrefix(key, sequence, index);
  });
}

function partsOf(store: RowStore, count: number, salt = ""): Uint8Array[] {
  using stored = store.adoptPrefix(store.prefixKeys(ids(count), salt));
  const parts: Uint8Array[] = [];
  for (let index = 0; index < stored.numBlocks; index++) {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      const part = new Uint8Array(SIZES.part);
      stored.readPart(index, layer, part, 0);
      parts.push(part);
    }
  }
  return parts;
}

/** Runs to the end. */
function finish<T>(turns: Generator<void, T>): T {
  for (;;) {
    const { done, value } = turns.next();
    if (done) return value;
  }
}

Deno.test("a conversation comes back with its rows, its tokens and its salt", () => {
  const first = open();
  offer(first.store, 96, 50, "mine");
  const turns = first.conversations.save("talk.kv", { ids: ids(96), salt: "mine" });
  assert.deepEqual(turns.next(), { done: false, value: undefined });
  const saved = finish(turns);
  assert.equal(saved.conversation.ids.length, 96);
  assert.equal(saved.bytes, first.files.contents.get("/slots/talk.kv")!.bytes.length);

  const second = open(first.files);
  const restored = finish(second.conversations.restore("talk.kv", CONTEXT));
  assert.deepEqual(restored.conversation, { ids: ids(96), salt: "mine" });
  assert.equal(restored.bytes, saved.bytes);
  assert.deepEqual(partsOf(second.store, 96, "mine"), partsOf(first.store, 96, "mine"));
  assert.equal(partsOf(second.store, 96, "mine").length, 9);
  assert.deepEqual(partsOf(second.store, 96), []);
  second.store.checkInvariants();
  assert.deepEqual([second.store.usage.numBlocks, second.store.usage.numCached], [0, 3]);
  assert.equal(first.files.numOpen, 0);
});

Deno.test("what the store has lost of a conversation is not in its file", () => {
  const { store, conversations } = open();
  offer(store, 64, 1);
  const { conversation } = finish(conversations.save("a", { ids: ids(96), salt: "" }));
  assert.equal(conversation.ids.length, 64);
  assert.throws(() => finish(conversations.save("a", { ids: ids(96), salt: "x" })), {
    code: "slot_empty",
  });
});

Deno.test("erasing forgets what no other conversation begins with", () => {
  const { store, conversations } = open();
  offer(store, 96, 1);
  const shared = { ids: ids(32), salt: "" };
  assert.equal(conversations.erase({ ids: ids(96), salt: "" }, [shared]), 64);
  assert.equal(store.countPrefix(store.prefixKeys(ids(96))), 1);
  assert.equal(conversations.erase({ ids: ids(96), salt: "" }, []), 32);
  assert.equal(store.countPrefix(store.prefixKeys(ids(96))), 0);
  store.checkInvariants();
});

Deno.test("erasing also removes the files of the prefix folder", () => {
  const files = new MemoryFiles();
  const { store } = makeStore(16, null, { files, prefixDir: "/prefixes" });
  offer(store, 64, 1);
  assert.equal(store.savePrefixes(9), 0);
  assert.equal(files.list("/prefixes").length, 2);
  assert.equal(store.dropPrefix(store.prefixKeys(ids(64))), 2);
  assert.equal(files.list("/prefixes").length, 0);
  assert.equal(partsOf(store, 64).length, 0);
});

Deno.test("12: a slot file's name never leads out of its folder, and a bad one writes nothing", () => {
  const { files, store, conversations } = open();
  offer(store, 32, 1);
  const before = [...files.contents.keys()];
  const names = ["../x", "/etc/x", "a/b", "a\\b", "", ".", "..", ".x", "x\0y", "x y", "é", "a\n"];
  for (const name of [...names, "x".repeat(65), "x".repeat(300)]) {
    const is = { name: "SlotError", code: "slot_name" };
    assert.throws(() => finish(conversations.save(name, { ids: ids(32), salt: "" })), is);
    assert.throws(() => finish(conversations.restore(name, CONTEXT)), is);
  }
  assert.deepEqual([...files.contents.keys()], before);
  for (const name of ["x", "A-b_c.kv", "x".repeat(64)]) {
    finish(conversations.save(name, { ids: ids(32), salt: "" }));
  }
  assert.equal(files.list("/slots").length, 3);
});

Deno.test("nothing but a plain file is read or replaced under a name", () => {
  const { files, store, conversations } = open();
  offer(store, 32, 1);
  // As the store sees a folder or a symbolic link: an entry that is no file.
  files.folders.add("/slots/link");
  assert.throws(() => finish(conversations.restore("link", CONTEXT)), {
    code: "slot_file_missing",
  });
  assert.throws(() => finish(conversations.save("link", { ids: ids(32), salt: "" })), {
    code: "slot_file_unwritable",
  });
});

Deno.test("a file that no slot was saved in is not replaced, and a slot's own is", () => {
  const { files, store, conversations } = open();
  offer(store, 32, 1);
  const save = (name: string) => finish(conversations.save(name, { ids: ids(32), salt: "" }));
  const foreign = { "model.gguf": "GGUF and much more", empty: "", short: "TBKV" };
  for (const [name, text] of Object.entries(foreign)) {
    const bytes = new TextEncoder().encode(text);
    files.contents.set(`/slots/${name}`, { bytes, mtimeMs: 0 });
    assert.throws(() => save(name), {
      code: "slot_file_unwritable",
      message: `the file ${name} is no slot file and is not replaced`,
    });
    assert.equal(files.contents.get(`/slots/${name}`)!.bytes, bytes);
  }
  save("talk");
  const { bytes } = files.contents.get("/slots/talk")!;
  bytes[200]! ^= 1;
  save("talk");
  assert.notEqual(files.contents.get("/slots/talk")!.bytes[200], bytes[200]);
  assert.equal(files.numOpen, 0);
});

Deno.test("a damaged slot file is refused, wherever the damage is, and nothing of it is found", () => {
  const { files, store, conversations } = open();
  offer(store, 64, 1, "salt");
  finish(conversations.save("a", { ids: ids(64), salt: "salt" }));
  const whole = files.contents.get("/slots/a")!.bytes;
  const refused = (bytes: Uint8Array) => {
    const other = open();
    other.files.contents.set("/slots/a", { bytes, mtimeMs: 0 });
    assert.throws(() => finish(other.conversations.restore("a", CONTEXT)), (error: Error) => {
      assert.equal(error.name, "SlotError");
      assert.match(String(Reflect.get(error, "code")), /^slot_file_(damaged|foreign)$/);
      return true;
    });
    assert.deepEqual([other.store.usage.numBlocks, other.store.usage.numCached], [0, 0]);
    assert.equal(other.files.numOpen, 0);
  };
  fc.assert(fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
    const bytes = whole.slice();
    bytes[at]! ^= flip;
    refused(bytes);
  }));
  fc.assert(fc.property(fc.nat(whole.length - 1), (length) => refused(whole.slice(0, length))));
  refused(new Uint8Array([...whole, 0]));
});

Deno.test("a file of another model, another version or too many tokens says so", () => {
  const { files, store, conversations } = open();
  offer(store, 64, 1);
  finish(conversations.save("a", { ids: ids(64), salt: "" }));
  const other = open(files, { fingerprint: "another" });
  assert.throws(() => finish(other.conversations.restore("a", CONTEXT)), {
    code: "slot_file_foreign",
    message: /another model/,
  });
  assert.throws(() => finish(conversations.restore("a", 63)), { code: "slot_file_too_long" });
  files.contents.set("/slots/text", { bytes: new Uint8Array(500), mtimeMs: 0 });
  assert.throws(() => finish(conversations.restore("text", CONTEXT)), {
    code: "slot_file_foreign",
  });
  assert.throws(() => finish(conversations.restore("none", CONTEXT)), {
    code: "slot_file_missing",
  });
});

Deno.test("a full disk or folder leaves the file of before", () => {
  const { files, store, conversations } = open(new MemoryFiles(), { most: 12_000 });
  offer(store, 64, 1);
  finish(conversations.save("a", { ids: ids(32), salt: "" }));
  const before = files.contents.get("/slots/a")!.bytes;
  files.faults.room = 1000;
  assert.throws(() => finish(conversations.save("a", { ids: ids(64), salt: "" })), {
    code: "slot_file_unwritable",
  });
  files.heal();
  assert.equal(files.contents.get("/slots/a")!.bytes, before);
  assert.deepEqual(files.list("/slots").map(({ name }) => name), ["a"]);
  finish(conversations.save("b", { ids: ids(64), salt: "" }));
  assert.throws(() => finish(conversations.save("c", { ids: ids(64), salt: "" })), {
    code: "slot_folder_full",
    message: /--slot-dir-size/,
  });
  // In the place of its own file it fits.
  finish(conversations.save("b", { ids: ids(64), salt: "" }));
  files.faults.failing.add("open");
  assert.throws(() => finish(conversations.restore("a", CONTEXT)), { code: "slot_file_damaged" });
});

Deno.test("what the system says of a file tells clients no path", async () => {
  const dir = `${await Deno.makeTempDir()}/of a client's`;
  const { store } = makeStore(16, null);
  const digest = createHash("sha256").update(store.fingerprint).digest();
  const conversations = new Conversations(store, new SlotFolder(SIZES, digest, systemFiles, dir));
  offer(store, 32, 1);
  await Deno.remove(dir);
  const failures = [
    () => finish(conversations.save("a", { ids: ids(32), salt: "" })),
    () => finish(conversations.restore("a", CONTEXT)),
  ];
  await Deno.writeTextFile(dir, "");
  for (const failure of failures) {
    assert.throws(failure, (error: unknown) => {
      assert.ok(error instanceof SlotError);
      assert.match(error.message, /not a directory/i);
      assert.doesNotMatch(error.message, /[/\\]|client/);
      return true;
    });
  }
  assert.equal(
    reasonWithoutPath(new Error("EXDEV: cross-device link, rename '/a b/c' -> '/d/e'")),
    "EXDEV: cross-device link",
  );
  assert.equal(
    reasonWithoutPath(new Error('Requires write access to "/a/b", run again')),
    "Requires write access to it, run again",
  );
  assert.equal(
    reasonWithoutPath(new Error("ENOSPC: no space left, write")),
    "ENOSPC: no space left, write",
  );
});

Deno.test("a save that is given up half way leaves nothing", () => {
  const { files, store, conversations } = open();
  offer(store, 96, 1);
  const turns = conversations.save("a", { ids: ids(96), salt: "" });
  turns.next();
  assert.equal(files.list("/slots").length, 1);
  turns.return(undefined as never);
  assert.equal(files.list("/slots").length, 0);
  assert.equal(files.numOpen, 0);
  assert.equal(store.usage.numBlocks, 0);
});
