import { assert } from "std-testing";
import { SlotConversations } from "../../src/engine/slot_conversations.ts";

Deno.test("orders that wait for their turn have a bound, whether or not anybody waits for them", async () => {
  const slots = new SlotConversations(null, 2, 256);
  const order = () => slots.order({ action: "save", slot: 0, filename: "a" }, () => false);
  const taken = Array.from({ length: 64 }, () => order().catch((error) => error.code));
  for (let i = 0; i < 100; i++) await assert.rejects(order(), { code: "slot_busy" });
  slots.turn();
  taken.push(order().catch((error) => error.code));
  await assert.rejects(order(), { code: "slot_busy" });
  while (slots.isBusy) slots.turn();
  assert.deepEqual(await Promise.all(taken), new Array(65).fill("slot_empty"));
});
