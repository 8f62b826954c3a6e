/** What the server says of itself: `/v1/models`, `/props`. @module */
import { wireDefaults } from "../butler/settings_wire.ts";
import type { Engine } from "../engine/types.ts";
import { type ChatTemplate, TemplateError } from "../tokenizer/types.ts";
import { statsWithin } from "../engine/stats_within.ts";
import { modelNotFound, withoutDirectories } from "./errors.ts";
import { isServed } from "./routes.ts";
import { endIdsOf, type ServedModel } from "./served_model.ts";

/** What the information routes are told. */
export interface InfoContext {
  readonly model: ServedModel;
  readonly servedName: string;
  /** Seconds since 1970 at which the server came up. */
  readonly created: number;
  /** Version of the program. */
  readonly version: string;
}

/** llama.cpp's numbers for kinds of vocabularies; 0 is a model without one. */
const VOCAB_TYPES = { none: 0, sentencepiece: 1, bpe: 2 } as const;

/** One entry of `/v1/models`; `meta` as llama.cpp has it, `max_model_len` as vLLM. */
function modelBody({ model: { engine: { info }, tokenizer }, servedName, created }: InfoContext) {
  return {
    id: servedName,
    object: "model",
    created,
    owned_by: "tokenbutler",
    max_model_len: info.contextLength,
    meta: {
      vocab_type: VOCAB_TYPES[tokenizer?.kind ?? "none"],
      n_vocab: info.model.vocabSize,
      n_ctx_train: info.model.trainedContext,
      n_embd: info.model.hiddenSize,
      n_params: info.model.numParameters,
      size: info.model.sizeBytes,
    },
  };
}

/** `GET /v1/models`. */
export function listModels(context: InfoContext): Response {
  return Response.json({ object: "list", data: [modelBody(context)] });
}

/** `GET /v1/models/{id}`. */
export function showModel(context: InfoContext, name: string): Response {
  if (!isServed(name, context.servedName)) throw modelNotFound(name, context.servedName);
  return Response.json(modelBody(context));
}

/** A step is over by then, or the engine is in a long one. */
const SLOT_MS = 500;

/** Whether the first slot has a sequence. */
async function isProcessing(engine: Engine): Promise<boolean> {
  const stats = await statsWithin(engine, SLOT_MS).catch(() => null);
  // An engine that does not answer is in the middle of something.
  return stats === null || stats.slots[0]?.running != null;
}

const systemRoles = new WeakMap<ChatTemplate, boolean>();

/** Whether a template writes a system message down; undefined where it could not be tried. */
async function takesSystemRole(template: ChatTemplate): Promise<boolean | undefined> {
  const known = systemRoles.get(template);
  if (known !== undefined) return known;
  const content = "a7d1c09e";
  try {
    const { text } = await template.render([
      { role: "system", content },
      { role: "user", content: "?" },
    ]);
    systemRoles.set(template, text.includes(content));
  } catch (error) {
    if (!(error instanceof TemplateError) || error.code === "unavailable") return undefined;
    systemRoles.set(template, false);
  }
  return systemRoles.get(template);
}

/** What chats can have, under llama.cpp's names: the template's part and the server's. */
async function templateCaps(template: ChatTemplate | undefined) {
  if (template === undefined) return {};
  const system = await takesSystemRole(template);
  return {
    supports_string_content: true,
    // Parts are taken in requests, but what the template gets is one string.
    supports_typed_content: false,
    ...(system === undefined ? {} : { supports_system_role: system }),
    supports_tools: false,
    supports_tool_calls: false,
    supports_parallel_tool_calls: false,
    supports_object_arguments: false,
    supports_preserve_reasoning: false,
  };
}

/** `GET /props`: llama.cpp's names for what it has, plain names for the rest. */
export async function props(context: InfoContext): Promise<Response> {
  const { model, servedName, version } = context;
  const { engine, template, tokenizer } = model;
  const { info } = engine;
  const { defaults: _, budgetTable, ...kv } = info.kv;
  return Response.json({
    default_generation_settings: {
      // Of the first slot, as llama.cpp has it.
      id: 0,
      is_processing: await isProcessing(engine),
      n_ctx: info.contextLength,
      params: {
        temperature: 1,
        top_k: 0,
        top_p: 1,
        min_p: 0,
        typical_p: 1,
        repeat_penalty: 1,
        repeat_last_n: 64,
        frequency_penalty: 0,
        presence_penalty: 0,
        kv: wireDefaults(info.kv.defaults, budgetTable),
      },
    },
    total_slots: info.maxSequences,
    model_alias: servedName,
    // Never more than the last part: directories are nobody's business.
    model_path: model.fileName ?? null,
    chat_template: template?.source ?? null,
    chat_template_caps: await templateCaps(template),
    bos_token_id: tokenizer?.bosId ?? null,
    end_token_ids: [...endIdsOf(model)],
    modalities: { vision: false, audio: false },
    is_sleeping: false,
    build_info: `tokenbutler ${version}`,
    model: info.model,
    kv: {
      ...kv,
      // The means that it was calibrated at, not all of its numbers.
      budgetMeans: budgetTable === null ? null : budgetTable.points.map(({ mean }) => mean),
    },
    adapter: info.adapter,
    kernels: info.variants,
    prefill_chunk: info.prefillChunk,
    readback: info.readback,
    notes: info.notes.map(withoutDirectories),
  });
}
