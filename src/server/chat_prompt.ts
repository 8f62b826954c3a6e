/**
 * A conversation as a prompt: through the model's own template, and without its oldest messages where
 * a request asks for that.
 *
 * @module
 */
import { type RenderedChat, TemplateError } from "../tokenizer/types.ts";
import type { RequestContext } from "./answer.ts";
import { badRequest, cannotCut, contextExceeded, type RequestError } from "./errors.ts";
import {
  checkCharacters,
  fitsContext,
  mostCharacters,
  needTokenizer,
  notEmpty,
  type PromptIds,
} from "./prompts.ts";
import type { ChatBody } from "./schemas.ts";
import { leastTokens } from "./served_model.ts";
import { answerTokens, type Cut, cutMessages, cutOf, shortestForm } from "./truncation.ts";

/** What a conversation is rendered from. */
type ChatFields = Pick<ChatBody, "messages" | "add_generation_prompt">;
/** What rendering needs of its request. */
type Rendering = Pick<RequestContext, "model" | "request">;

/** The field that a conversation comes from. */
const param = "messages";

/**
 * Messages through the model's own template.
 *
 * @throws {RequestError} 400 for a model without tokenizer or template.
 * @throws {TemplateError} If the template refuses the messages.
 */
function renderMessages(
  body: ChatFields,
  { model, request: { signal } }: Rendering,
): Promise<RenderedChat> {
  const { template } = model;
  needTokenizer(model, param);
  if (template === undefined) {
    throw badRequest("This model has no chat template: send a prompt to /v1/completions.", {
      param,
      code: "no_chat_template",
    });
  }
  const messages = body.messages.map((message) => ({
    ...message,
    content: message.content.toWellFormed(),
  }));
  return template.render(messages, { addGenerationPrompt: body.add_generation_prompt, signal });
}

/**
 * A conversation as text and ids, as much of it as a request asks for.
 *
 * @param cut What it is cut to; null: not at all.
 * @throws {RequestError} 400 for a model without tokenizer or template, and where too little may go.
 * @throws {TemplateError} If the template refuses the messages.
 */
export async function renderChat(
  body: ChatFields,
  context: Rendering,
  cut: Cut | null,
): Promise<RenderedChat & { readonly truncated: number }> {
  const whole = await renderMessages(body, context);
  const numTokens = whole.ids.length;
  if (cut === null || numTokens <= cut.limit) return { ...whole, truncated: 0 };
  const shorter = await cutMessages(
    body.messages,
    numTokens,
    cut,
    (messages) => renderMessages({ ...body, messages }, context),
  );
  if (shorter.ids !== null) return shorter;
  throw cannotCut(numTokens, shorter.least, cut.limit, context.model.engine.info.contextLength);
}

/** Characters of all messages. */
export function charactersOf(messages: ChatBody["messages"]): number {
  return messages.reduce((sum, { content }) => sum + content.length, 0);
}

/**
 * Ids of a conversation that an answer is to follow.
 *
 * @param cut What it is cut to; null: not at all.
 * @throws {RequestError} 400 as of {@linkcode renderChat}, and where it leaves no room in the context.
 * @throws {TemplateError} If the template refuses the messages.
 */
export async function chatPromptIds(
  body: ChatBody,
  context: RequestContext,
  cut: Cut | null,
): Promise<PromptIds> {
  const { model, limits } = context;
  const { contextLength } = model.engine.info;
  const length = charactersOf(body.messages);
  const least = leastTokens(needTokenizer(model, param), length);
  // Before time is spent on what cannot fit.
  if (cut === null && least > contextLength) throw await tooLong(body, context, least, false);
  checkCharacters(model, limits, length, param);
  const { ids, truncated } = await renderChat(body, context, cut);
  if (!fitsContext(ids.length, contextLength, answerTokens(body))) {
    throw await tooLong(body, context, ids.length, true);
  }
  return { ids: notEmpty(ids, param), numAdded: 0, param, truncated };
}

/** 400 for a conversation that leaves no room in the context, with what helps. */
async function tooLong(
  body: ChatBody,
  context: RequestContext,
  numTokens: number,
  exact: boolean,
): Promise<RequestError> {
  const { contextLength } = context.model.engine.info;
  const error = (remedy: string) =>
    contextExceeded(numTokens, contextLength, param, exact, `${remedy}, or`);
  // A cut does not lift the bound of characters.
  if (charactersOf(body.messages) > mostCharacters(context.model, context.limits)) {
    return error("Shorten the prompt");
  }
  const least = await leastOf(body, context, numTokens);
  if (least === null) return error("Shorten the prompt");
  if (least >= contextLength) {
    return error(
      "Leaving out the oldest messages (`truncate_prompt_tokens`) does not help: those that " +
        "always stay (of the system, and the user's last one with what follows it) are too long " +
        "by themselves. Shorten them",
    );
  }
  // With a number of their own these messages have what room there is.
  const fits = least <= cutOf(-1, contextLength, answerTokens(body) ?? null).limit;
  return error(
    "Shorten the prompt, have its oldest messages left out (`truncate_prompt_tokens`: " +
      `${fits ? -1 : least})`,
  );
}

/**
 * Tokens of what stays of a conversation however it is cut, or fewer where these are too many already;
 * null where the template does not take it.
 */
async function leastOf(
  body: ChatBody,
  context: RequestContext,
  numTokens: number,
): Promise<number | null> {
  const messages = shortestForm(body.messages);
  if (messages === null) return numTokens;
  const { contextLength } = context.model.engine.info;
  const least = leastTokens(needTokenizer(context.model, param), charactersOf(messages));
  if (least >= contextLength) return least;
  try {
    return (await renderMessages({ ...body, messages }, context)).ids.length;
  } catch (thrown) {
    if (thrown instanceof TemplateError) return null;
    throw thrown;
  }
}
