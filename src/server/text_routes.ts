/** `/tokenize`, `/detokenize`, `/apply-template`, in the shapes of llama.cpp. @module */
import type { RequestContext } from "./answer.ts";
import { readJsonObject } from "./body.ts";
import { checkCharacters, checkIds, needTokenizer } from "./plan.ts";
import { renderMessages } from "./routes.ts";
import { applyTemplateSchema, detokenizeSchema, parseBody, tokenizeSchema } from "./schemas.ts";
import { encodeTexts } from "./served_model.ts";
import { tokenBytes } from "./wire.ts";

/** Tokens that are turned into text at a time: some ten milliseconds. */
const AT_ONCE = 16_384;

/** Parts of a list; before each but the first whoever else waits has a turn. */
async function* inTurns<T>(list: readonly T[]): AsyncGenerator<readonly T[]> {
  for (let at = 0; at < list.length; at += AT_ONCE) {
    if (at > 0) await new Promise((go) => setTimeout(go, 0));
    yield list.slice(at, at + AT_ONCE);
  }
}

/** A token's text, or its bytes where they are not whole characters. */
function piece(bytes: Uint8Array): string | number[] {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
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
  }]);
  if (!body.with_pieces) return Response.json({ tokens: ids });
  const tokens: { readonly id: number; readonly piece: string | number[] }[] = [];
  for await (const part of inTurns(ids)) {
    for (const id of part) tokens.push({ id, piece: piece(tokenBytes(tokenizer, id)) });
  }
  return Response.json({ tokens });
}

/** `POST /detokenize`. */
export async function detokenize(context: RequestContext): Promise<Response> {
  const raw = await readJsonObject(context.request, context.bodyLimits);
  const { tokens } = parseBody(detokenizeSchema, raw);
  const tokenizer = needTokenizer(context.model, "tokens");
  checkIds(tokens, tokenizer.vocabSize, "tokens");
  const stream = tokenizer.stream({ skipSpecial: false });
  const texts: string[] = [];
  for await (const part of inTurns(tokens)) {
    texts.push(part.map((id) => stream.push(id)).join(""));
  }
  return Response.json({ content: `${texts.join("")}${stream.end()}` });
}

/** `POST /apply-template`. */
export async function applyTemplate(context: RequestContext): Promise<Response> {
  const raw = await readJsonObject(context.request, context.bodyLimits);
  const body = parseBody(applyTemplateSchema, raw);
  const length = body.messages.reduce((sum, { content }) => sum + content.length, 0);
  checkCharacters(context.model, context.limits, length, "messages");
  const { text } = await renderMessages(body, context.model);
  return Response.json({ prompt: text });
}
