/** Clients that look at the server and move conversations, and those that may not. @module */
import { below, oneOf } from "../fuzz/_mutate.ts";
import type { Manner, Manners } from "./_manners.ts";
import { post, request } from "./_target.ts";

const PAGES = [
  ...["/health", "/live", "/ready", "/metrics", "/slots", "/props", "/v1/models"],
  ...["/openapi.json", "/docs"],
];
/** Statuses of slots that are busy, empty, or have no room now. */
const SLOT_STATUSES = [200, 404, 409, 503];
/** Long enough to be tokenized beside everything else. */
const LONG_TEXT = "All this is said once more. ".repeat(2000);

/** Asks how the server is. */
const looks: Manner = async ({ target, key, random }) => {
  const path = oneOf(random, PAGES);
  const response = await request(target, key, path);
  await response.text();
  if (path === "/ready" && response.status === 429) return "refused";
  // The engine is in a long step, as one that compiles kernels.
  if (path === "/slots" && response.status === 503) return "refused";
  if (!response.ok) throw new Error(`${response.status} for ${path}`);
  return "answered";
};

/** Saves, restores and erases what slots have. */
const movesSlots: Manner = async ({ target, key, random }) => {
  const action = oneOf(random, ["save", "restore", "erase"]);
  const path = `/slots/${below(random, 4)}?action=${action}`;
  const body = { filename: oneOf(random, ["one", "two", "three"]) };
  const response = await post(target, key, path, body);
  const text = await response.text();
  if (!SLOT_STATUSES.includes(response.status)) throw new Error(`${response.status}: ${text}`);
  return response.ok ? "answered" : "refused";
};

/** Has text made into tokens that takes a while. */
const tokenizes: Manner = async ({ target, key }) => {
  const response = await post(target, key, "/tokenize", { content: LONG_TEXT });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const { tokens } = await response.json() as { tokens: number[] };
  if (tokens.length < 1000) throw new Error(`${tokens.length} tokens only`);
  return "answered";
};

/** Chats, which takes the template's worker. */
const chats: Manner = async ({ target, key }) => {
  const body = { messages: [{ role: "user", content: "Say something." }], max_tokens: 2 };
  const response = await post(target, key, "/v1/chat/completions", body);
  const text = await response.text();
  if (response.status === 429) return "refused";
  if (!response.ok) throw new Error(`${response.status}: ${text}`);
  return "answered";
};

/** Has a key that is none. */
const isUnknown: Manner = async ({ target, key, question }) => {
  const response = await request(target, key, "/v1/completions", {
    method: "POST",
    headers: { "content-type": "application/json", authorization: "Bearer soak-three" },
    body: JSON.stringify(question),
  });
  const text = await response.text();
  if (response.status !== 401) throw new Error(`${response.status}, not 401: ${text}`);
  return "refused";
};

/** All of them. */
export const LOOKERS: Manners = [
  ["looks", 8, looks],
  ["moves slots", 4, movesSlots],
  ["tokenizes", 2, tokenizes],
  ["chats", 4, chats],
  ["is unknown", 3, isUnknown],
];
