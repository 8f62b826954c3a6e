/** `/tokenize`, `/detokenize`, `/apply-template`, in the shapes of llama.cpp. @module */
import type { RequestContext } from "./answer.ts";
import { readJsonObject } from "./body.ts";
import { charactersOf, renderChat } from "./chat_prompt.ts";
import { parseBody } from "./parse_body.ts";
import { checkCharacters, checkIds, needTokenizer } from "./prompts.ts";
import { applyTemplateSchema, detokenizeSchema, tokenizeSchema } from "./schemas.ts";
import { encodeTexts } from "./served_model.ts";
import { cutAsked } from "./truncation.ts";
import { jsonAnswer } from "./whole_body.ts";
import { tokenBytes } from "./wire.ts";

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Some milliseconds of work, after which others get their turn: a body has room for millions. */
const IDS_A_TURN = 4096;

/** Does something with all ids, some at a time. */
async function inTurns(ids: readonly number[], act: (some: readonly number[]) => void) {
  for (let at = 0; at < ids.length; at += IDS_A_TURN) {
    if (at > 0) await new Promise((resolve) => setTimeout(resolve));
    act(ids.slice(at, at + IDS_A_TURN));
  }
}

/** A token's text, or its bytes where they are not whole characters. */
function piece(bytes: Uint8Array): string | number[] {
  try {
    return decoder.decode(bytes);
  } catch {
    return [...bytes];
  }
}

/** `POST /tokenize`. */
export async function tokenize(context: RequestContext): Promise<Response> {
  const raw = await readJsonObject(context.request, context.bodyLimits);
  const body = parseBody(tokenizeSchema, raw);
  const tokenizer = needTokenizer(context.model, "content");
  const [ids = []] = await encodeTexts(context.model, tokenizer, [{
    text: body.content.toWellFormed(),
    parseSpecial: body.parse_special,
    addBos: body.add_special,
  }], context.request.signal);
  if (!body.with_pieces) return jsonAnswer({ tokens: ids });
  const tokens: { id: number; piece: string | number[] }[] = [];
  const pieces = new Map<number, string | number[]>();
  await inTurns(ids, (some) => {
    for (const id of some) {
      const known = pieces.get(id) ?? piece(tokenBytes(tokenizer, id));
      pieces.set(id, known);
      tokens.push({ id, piece: known });
    }
  });
  return jsonAnswer({ tokens });
}

/** `POST /detokenize`. */
export async function detokenize(context: RequestContext): Promise<Response> {
  const raw = await readJsonObject(context.request, context.bodyLimits);
  const { tokens } = parseBody(detokenizeSchema, raw);
  const tokenizer = needTokenizer(context.model, "tokens");
  checkIds(tokens, tokenizer.vocabSize, "tokens");
  const stream = tokenizer.stream({ skipSpecial: false });
  let content = "";
  await inTurns(tokens, (some) => content += stream.pushAll(some));
  return jsonAnswer({ content: content + stream.end() });
}

/** `POST /apply-template`. */
export async function applyTemplate(context: RequestContext): Promise<Response> {
  const raw = await readJsonObject(context.request, context.bodyLimits);
  const body = parseBody(applyTemplateSchema, raw);
  checkCharacters(context.model, context.limits, charactersOf(body.messages), "messages");
  const cut = cutAsked(body, context.model.engine.info.contextLength, null);
  // Nothing is to follow the prompt: the context does not bound it.
  const { text, truncated } = await renderChat(body, context, cut, () => true);
  return jsonAnswer({
    prompt: text,
    ...(cut === null ? {} : { truncated_prompt_tokens: truncated }),
  });
}
