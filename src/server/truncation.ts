/**
 * How much of a prompt is left out where a request asks for that (`truncate_prompt_tokens`, as vLLM
 * names it). Nothing is ever cut unasked.
 *
 * @module
 */
import type { ChatBody, GenerationBody } from "./schemas.ts";

/** What a prompt is cut to. */
export interface Cut {
  /** Tokens that may be left. */
  readonly limit: number;
  /** Tokens are left out in multiples of this. */
  readonly step: number;
}

/** Part of the context that stays free for an answer of no named length. */
const ANSWER_SHARE = 1 / 4;
/** Part of the context that a prompt gets however long its answer may become. */
const LEAST_SHARE = 1 / 4;
/** Part of the context by which the cut moves. */
const STEP_SHARE = 1 / 4;

/**
 * What a request's number means. -1 is whatever the context has room for beside the answer. The cut
 * then moves in steps: in a conversation that grows, turns begin as the turn before did until the
 * next step, and what was prefilled for that one is found again. A cut that moved by a few tokens at every turn
 * would have everything prefilled anew each time.
 *
 * @param asked Tokens to keep, or -1.
 * @param contextLength Tokens of prompt and answer.
 * @param answerTokens Most tokens of the answer; null: as many as fit.
 */
export function cutOf(asked: number, contextLength: number, answerTokens: number | null): Cut {
  if (asked >= 0) return { limit: asked, step: 1 };
  const answer = answerTokens ?? Math.floor(contextLength * ANSWER_SHARE);
  const step = Math.max(1, Math.floor(contextLength * STEP_SHARE));
  // A step may take all but one of its tokens more than has to go.
  const least = Math.ceil(contextLength * LEAST_SHARE) + step - 1;
  return { limit: Math.max(least, contextLength - answer), step };
}

/** What a request says of the length of its answer. */
type AnswerFields = Pick<GenerationBody, "max_tokens" | "max_completion_tokens">;

/** Most tokens of the answer; undefined where the request does not say. */
export function answerTokens(body: AnswerFields): number | undefined {
  return body.max_completion_tokens ?? body.max_tokens;
}

/**
 * What prompts are cut to; null where the request does not ask for that.
 *
 * @param defaultTokens Most tokens of an answer of which nothing is said; null: as many as fit.
 */
export function cutAsked(
  body: AnswerFields & Pick<GenerationBody, "truncate_prompt_tokens">,
  contextLength: number,
  defaultTokens: number | null,
): Cut | null {
  const { truncate_prompt_tokens: asked } = body;
  if (asked === undefined) return null;
  return cutOf(asked, contextLength, answerTokens(body) ?? defaultTokens);
}

/** Tokens that have to go from a prompt of `numTokens`. */
export function tokensToDrop(numTokens: number, { limit, step }: Cut): number {
  return Math.ceil(Math.max(0, numTokens - limit) / step) * step;
}

/**
 * Leaves out the oldest tokens.
 *
 * @param ids The whole prompt.
 * @param bosId Token of the beginning of a text, where the model needs one: it stays in front.
 */
export function cutIds(
  ids: readonly number[],
  cut: Cut,
  bosId: number | null,
): { readonly ids: readonly number[]; readonly truncated: number } {
  const truncated = tokensToDrop(ids.length, cut);
  if (truncated === 0) return { ids, truncated };
  const kept = ids.length - truncated;
  if (kept > 1 && ids[0] === bosId) {
    return { ids: [bosId, ...ids.slice(truncated + 1)], truncated };
  }
  return { ids: ids.slice(truncated), truncated };
}

type Messages = ChatBody["messages"];

/** What the maker of the client says stays. */
const stays = ({ role }: Messages[number]) => role === "system" || role === "developer";

/**
 * Where a conversation may go on without what came before: at each message of the user before which
 * something was said. Many templates take nothing else after what the system said.
 */
export function cutPoints(messages: Messages): number[] {
  const spoken = messages.findIndex((message) => !stays(message));
  return messages.flatMap(({ role }, at) => role === "user" && at > spoken ? [at] : []);
}

/** A conversation from `first` on, with what the system said before. */
export function messagesFrom(messages: Messages, first: number): Messages {
  return [...messages.slice(0, first).filter(stays), ...messages.slice(first)];
}

/** What stays of a conversation at the least; null where nothing of it may go. */
export function shortestForm(messages: Messages): Messages | null {
  const last = cutPoints(messages).at(-1);
  return last === undefined ? null : messagesFrom(messages, last);
}

/** A conversation as the model sees it. */
interface Rendered {
  readonly ids: readonly number[];
}

/**
 * A conversation that was cut, or the reason why it could not be: `least` are the tokens of its
 * shortest form, null where that was not rendered.
 */
export type CutMessages<R extends Rendered> =
  | R & { readonly truncated: number; readonly least: number | null }
  | { readonly ids: null; readonly least: number };

/** Renderings of a conversation that a good cut is looked for with, besides that of all of it. */
const MOST_RENDERS = 6;

/**
 * Leaves out the oldest messages, as few as will do; of hundreds of messages of very different length
 * a few more. What the system said stays, and so do the last message of the user and what follows it.
 *
 * @param messages The whole conversation.
 * @param numTokens Its tokens.
 * @param render A conversation with its ids.
 * @returns Null as ids where all that may go is too little, with the tokens that have to stay.
 */
export async function cutMessages<R extends Rendered>(
  messages: Messages,
  numTokens: number,
  cut: Cut,
  render: (messages: Messages) => Promise<R>,
): Promise<CutMessages<R>> {
  const points = cutPoints(messages);
  const most = numTokens - tokensToDrop(numTokens, cut);
  let found: R | null = null;
  let tried: R | null = null;
  let least: number | null = null;
  // The later it begins, the fewer tokens it has.
  let [low, high] = [0, points.length];
  let next = likelyPoint(messages, points, most / numTokens);
  for (let renders = 0; low < high && (renders < MOST_RENDERS || found === null); renders++) {
    // When many were tried in vain the last one is sure to tell.
    const at = renders < MOST_RENDERS ? Math.min(Math.max(next, low), high - 1) : high - 1;
    tried = await render(messagesFrom(messages, points[at]!));
    if (at === points.length - 1) least = tried.ids.length;
    if (tried.ids.length <= most) [found, high] = [tried, at];
    else low = at + 1;
    // The likely one is mostly right, or one beside it.
    next = renders < 2 ? (found === null ? low : high - 1) : (low + high) >> 1;
  }
  // Where no form is short enough the shortest was the last to be tried: without the step of the
  // cut it may do.
  if (tried !== null && tried.ids.length <= cut.limit) found ??= tried;
  if (found !== null) return { ...found, truncated: numTokens - found.ids.length, least };
  return { ids: null, least: least ?? numTokens };
}

/** The first point from which on there is at most a share of the conversation, by characters. */
function likelyPoint(messages: Messages, points: readonly number[], share: number): number {
  const lengths = messages.map(({ content }) => content.length + CHARACTERS_AROUND);
  let left = lengths.reduce((sum, length) => sum + length, 0);
  const most = left * share;
  let at = 0;
  for (const [index, length] of lengths.entries()) {
    if (index === points[at]) {
      if (left <= most) return at;
      at++;
    }
    if (!stays(messages[index]!)) left -= length;
  }
  return Math.max(0, points.length - 1);
}

/** What a template puts around a message, in characters of text: a guess. */
const CHARACTERS_AROUND = 20;
