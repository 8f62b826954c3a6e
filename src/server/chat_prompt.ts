/**
 * A conversation as a prompt: through the model's own template, and without its oldest messages where
 * a request asks for that.
 *
 * @module
 */
import { EncodeError } from "../tokenizer/background_encoder.ts";
import { type RenderedChat, TemplateError } from "../tokenizer/types.ts";
import type { RequestContext } from "./answer.ts";
import { badRequest, cannotCut, contextExceeded, type RequestError } from "./errors.ts";
import {
  checkTextLength,
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

/** As much of a conversation as a request asks for. */
interface CutChat extends RenderedChat {
  /** Tokens that were left out. */
  readonly truncated: number;
  /** Tokens of what stays however it is cut; null where nobody has counted them. */
  readonly least: number | null;
}

/**
 * A conversation as text and ids, as much of it as a request asks for.
 *
 * @param cut What it is cut to; null: not at all.
 * @param fits Whether so many tokens may be left: an error recommends nothing else.
 * @throws {RequestError} 400 for a model without tokenizer or template, and where too little may go.
 * @throws {TemplateError} If the template refuses the messages.
 */
export async function renderChat(
  body: ChatFields,
  context: Rendering,
  cut: Cut | null,
  fits: (numTokens: number) => boolean,
): Promise<CutChat> {
  const whole = await renderMessages(body, context);
  const numTokens = whole.ids.length;
  if (cut === null || numTokens <= cut.limit) {
    return { ...whole, truncated: 0, least: null };
  }
  const shorter = await cutMessages(
    body.messages,
    numTokens,
    cut,
    (messages) => renderMessages({ ...body, messages }, context),
  );
  if (shorter.ids !== null) return shorter;
  throw cannotCut(numTokens, shorter.least, cut.limit, fits(shorter.least));
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
  const fits = fitsBeside(body, context);
  // Before time is spent on all of what cannot fit: advice takes its shortest form at most.
  await checkTextLength(
    model,
    charactersOf(body.messages),
    { param, cut, limits },
    (least) => tooLong(body, context, { numTokens: least, exact: false }),
  );
  const { ids, truncated, least } = await renderChat(body, context, cut, fits);
  if (!fits(ids.length)) {
    throw await tooLong(body, context, { numTokens: ids.length, exact: true, truncated, least });
  }
  return { ids: notEmpty(ids, param), numAdded: 0, param, truncated };
}

/** Whether so many tokens leave room for the answer. */
function fitsBeside(body: ChatBody, context: RequestContext): (numTokens: number) => boolean {
  const { contextLength } = context.model.engine.info;
  const maxTokens = answerTokens(body);
  return (numTokens) => fitsContext(numTokens, contextLength, maxTokens);
}

/** What is known of a conversation that is too long. */
interface TooLong extends Partial<Pick<CutChat, "truncated" | "least">> {
  readonly numTokens: number;
  /** Or it has so many at least. */
  readonly exact: boolean;
}

/** 400 for a conversation that leaves no room in the context, with what helps. */
async function tooLong(
  body: ChatBody,
  context: RequestContext,
  { numTokens, exact, truncated = 0, least: known = null }: TooLong,
): Promise<RequestError> {
  const { contextLength } = context.model.engine.info;
  const error = (remedy: string) =>
    contextExceeded(numTokens, contextLength, param, { exact, truncated, remedy });
  // A cut does not lift the bound of characters.
  if (charactersOf(body.messages) > mostCharacters(context.model, context.limits)) {
    return error("Shorten the prompt");
  }
  const least = known ?? await leastOf(body, context, numTokens);
  if (least === null) return error("Shorten the prompt");
  if (!fitsBeside(body, context)(least)) {
    return error(
      "Leaving out the oldest messages (`truncate_prompt_tokens`) does not help: those that " +
        "always stay (of the system, and the user's last one with what follows it) are too long " +
        "by themselves. Shorten them",
    );
  }
  // With a number of their own these messages have what room there is.
  const room = cutOf(-1, contextLength, answerTokens(body) ?? null).limit;
  return error(
    "Shorten the prompt, have its oldest messages left out (`truncate_prompt_tokens`: " +
      `${least <= room ? -1 : least})`,
  );
}

/**
 * Tokens of what stays of a conversation however it is cut, or fewer where these are too many already;
 * null where they cannot be told.
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
  if (least > contextLength) return least;
  try {
    return (await renderMessages({ ...body, messages }, context)).ids.length;
  } catch (thrown) {
    // The refusal stands whatever becomes of the advice: "try again" in its place would be wrong.
    if (thrown instanceof TemplateError || thrown instanceof EncodeError) return null;
    throw thrown;
  }
}
