/** Files of the tiers below the device: a saved block, a saved conversation. @module */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { assert } from "std-testing";
import { Conversations } from "../../src/kv/store/conversations.ts";
import { SlotError } from "../../src/kv/store/errors.ts";
import { systemFiles } from "../../src/kv/store/file_ops.ts";
import { HEADER_BYTES } from "../../src/kv/store/sizes.ts";
import { SlotFolder } from "../../src/kv/store/slot_folder.ts";
import { BLOCK_ROWS, type StoredSequence } from "../../src/kv/store/types.ts";
import { MemoryFiles } from "../kv/store/_memory_files.ts";
import { makePart, makeStore, SHAPE, SIZES } from "../kv/store/_store.ts";
import type { FileTarget } from "./_files.ts";
import { mutateBytes, type Random } from "./_mutate.ts";

/** Where both formats have the checksum of their header. */
const HEADER_SUM = 124;
const NUM_BLOCKS = 2;
const IDS = Array.from({ length: NUM_BLOCKS * BLOCK_ROWS }, (_, i) => i * 3);
const SALT = "who asks";

/** Spoils a file; half of them get checksums that fit, as whoever spoils on purpose would see to. */
function spoil(
  bytes: Uint8Array,
  head: number,
  random: Random,
  seal: (bytes: Uint8Array) => void,
) {
  const mutation = mutateBytes(bytes, head, random);
  if (random() < 0.5 || mutation.bytes.length < HEADER_BYTES) return mutation;
  seal(mutation.bytes);
  return { note: `${mutation.note}, sealed`, bytes: mutation.bytes };
}

function sealHeader(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setUint32(HEADER_SUM, crc32(bytes.subarray(0, HEADER_SUM)), true);
}

/** Checksums of a conversation's ids and salt too, as far as its header leads to them. */
function sealConversation(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const end = HEADER_BYTES + view.getUint32(32, true) * 4 + view.getUint32(36, true);
  bytes.set(createHash("sha256").update(bytes.subarray(HEADER_BYTES, end)).digest(), 80);
  sealHeader(bytes);
}

function fill(sequence: StoredSequence, numBlocks: number): void {
  for (let block = 0; block < numBlocks; block++) {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      sequence.putPart(block, layer, makePart(block * SHAPE.numLayers + layer));
    }
  }
}

/** Rows have checksums of their own, which nobody can leave as they are and change the rows. */
function checkRows(stored: StoredSequence, numBlocks: number): void {
  const read = new Uint8Array(SIZES.part);
  for (let block = 0; block < numBlocks; block++) {
    for (let layer = 0; layer < SHAPE.numLayers; layer++) {
      stored.readPart(block, layer, read, 0);
      const part = makePart(block * SHAPE.numLayers + layer);
      assert.deepEqual(read, part, "damaged rows were served");
    }
  }
}

/** A saved beginning of a prompt: if it is used at all, it is what was saved. */
export function prefixBlock(): FileTarget {
  const files = new MemoryFiles();
  const { store } = makeStore(8, null, { files, prefixDir: "/p" });
  const keys = store.prefixKeys(IDS.slice(0, BLOCK_ROWS));
  const sequence = store.open();
  fill(sequence, 1);
  store.offerPrefix(keys[0]!, sequence, 0);
  sequence[Symbol.dispose]();
  store[Symbol.dispose]();
  const { bytes } = [...files.contents.values()][0]!;
  return {
    name: "prefix",
    good: [bytes],
    mutate: (random) => spoil(bytes, HEADER_BYTES, random, sealHeader),
    open(folder, spoiled) {
      Deno.mkdirSync(`${folder}/p`, { recursive: true });
      Deno.writeFileSync(`${folder}/p/${keys[0]}.kv`, spoiled);
      const { store } = makeStore(8, null, { prefixDir: `${folder}/p` });
      try {
        using adopted = store.adoptPrefix(keys);
        if (adopted.numBlocks === 0) return false;
        checkRows(adopted, 1);
        return true;
      } finally {
        store[Symbol.dispose]();
      }
    },
  };
}

/** A saved conversation: refused by name, or back with the rows that were saved. */
export function slotFile(): FileTarget {
  const digest = createHash("sha256").update("model").digest();
  const saved = new MemoryFiles();
  const { store } = makeStore(8, null);
  const sequence = store.open();
  fill(sequence, NUM_BLOCKS);
  const folder = new SlotFolder(SIZES, digest, saved, "/s");
  const conversation = { ids: Uint32Array.from(IDS), salt: SALT };
  for (const _ of folder.save("talk", conversation, sequence));
  sequence[Symbol.dispose]();
  store[Symbol.dispose]();
  const { bytes } = saved.contents.get("/s/talk")!;
  const head = HEADER_BYTES + IDS.length * 4 + SALT.length;
  return {
    name: "slot",
    good: [bytes],
    mutate: (random) => spoil(bytes, head, random, sealConversation),
    open(folder, spoiled) {
      Deno.writeFileSync(`${folder}/talk`, spoiled);
      const { store } = makeStore(8, null);
      try {
        return restores(
          new Conversations(store, new SlotFolder(SIZES, digest, systemFiles, folder)),
        );
      } finally {
        store[Symbol.dispose]();
      }

      function restores(conversations: Conversations): boolean {
        const turns = conversations.restore("talk", IDS.length * 2);
        try {
          for (;;) {
            const { done, value } = turns.next();
            if (!done) continue;
            const { ids, salt } = value.conversation;
            // Whoever asks with these very tokens finds these very rows.
            using found = store.adoptPrefix(store.prefixKeys([...ids], salt));
            assert.equal(found.numBlocks * BLOCK_ROWS, ids.length);
            checkRows(found, found.numBlocks);
            return true;
          }
        } catch (error) {
          if (!(error instanceof SlotError)) throw error;
          assert.equal(store.usage.numCached, 0, "a part of a refused file can be found");
          return false;
        }
      }
    },
  };
}
