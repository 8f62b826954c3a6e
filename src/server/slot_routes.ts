/**
 * `/slots`, in the shapes of llama.cpp: which sequence runs where, and the rows of a slot's
 * conversation saved under a name, brought back and erased. No text and no token is shown.
 *
 * @module
 */
import { z } from "zod";
import type { Engine, EngineInfo, SlotLoad, SlotReply, SlotRequest } from "../engine/types.ts";
import { isSlotName, SLOT_NAME } from "../kv/store/slot_name.ts";
import type { SlotErrorCode } from "../kv/store/errors.ts";
import { readJsonObject } from "./body.ts";
import { statsWithin } from "../engine/stats_within.ts";
import { badRequest, engineFailure, RequestError } from "./errors.ts";
import type { Operated, OperatorRequest, OperatorRoute } from "./operator_routes.ts";
import { parseBody } from "./parse_body.ts";

/** What can be done with a slot. */
export const SLOT_ACTIONS = ["save", "restore", "erase"] as const;

const NAME_RULE = "must be a name of 1 to 64 letters, digits, `.`, `_` or `-`, without a `.` first";

/** Body of `POST /slots/{id}?action=save` and `restore`. */
export const slotFileSchema = z.object({
  // The name is all of the file that a request decides: where it lies the command line says.
  filename: z.string({ error: NAME_RULE }).refine(isSlotName, { error: NAME_RULE }).meta({
    pattern: SLOT_NAME.source,
    description: "name of the file inside --slot-dir",
  }),
});

/** For whoever saves or restores without a name. */
const EXAMPLE = '{"filename": "talk"}';

/** The routes; `keepsFiles`: there is a folder for conversations. */
export function slotRoutes(operated: Operated, keepsFiles: boolean): OperatorRoute[] {
  return [
    { method: "GET", path: "/slots", handler: (request) => listSlots(operated, request) },
    {
      method: "POST",
      path: "/slots/:id",
      isPartial: !keepsFiles,
      handler: (request) => actOnSlot(operated, request),
    },
  ];
}

/** How long a list waits for the engine: a prefill chunk takes about two seconds. */
const STATS_WITHIN_MS = 4000;

/** 503: the engine is in the middle of something, for how long nobody knows. */
function engineBusy(): RequestError {
  const message = "The engine is in a long step and cannot say what runs. Try again in a second.";
  return new RequestError(503, "unavailable_error", message, {
    code: "engine_busy",
    headers: { "retry-after": "1" },
  });
}

async function listSlots(operated: Operated, request: OperatorRequest): Promise<Response> {
  const { engine } = operated.model();
  const stats = await statsWithin(engine, STATS_WITHIN_MS).catch((thrown) => {
    throw slotFailure(thrown);
  });
  if (stats === null) throw engineBusy();
  const { slots } = stats;
  const wantsFree = request.query("fail_on_no_slot");
  if (wantsFree !== undefined && slots.every(({ running }) => running !== null)) {
    throw new RequestError(503, "unavailable_error", "All slots have a sequence.", {
      code: "no_free_slot",
      headers: { "retry-after": "1" },
    });
  }
  return Response.json(slots.map((slot, id) => slotBody(slot, id, engine.info)));
}

function slotBody({ running, kept }: SlotLoad, id: number, info: EngineInfo) {
  const sampling = running?.sampling;
  return {
    id,
    // llama.cpp has a number here; ours is what its answer has as `id`, and the number of the choice.
    id_task: running?.id ?? kept?.id ?? null,
    n_ctx: info.contextLength,
    is_processing: running !== null,
    params: running === null || sampling === undefined ? {} : {
      n_predict: running.maxTokens,
      seed: sampling.seed,
      temperature: sampling.temperature,
      top_k: sampling.topK,
      top_p: sampling.topP,
      min_p: sampling.minP,
      typical_p: sampling.typicalP,
      repeat_penalty: sampling.repetitionPenalty,
      repeat_last_n: sampling.repeatLastN,
      frequency_penalty: sampling.frequencyPenalty,
      presence_penalty: sampling.presencePenalty,
      kv: { policy: running.policy },
    },
    next_token: {
      has_next_token: running !== null,
      has_new_line: false,
      n_remain: running === null ? 0 : running.maxTokens - running.numGenerated,
      n_decoded: running?.numGenerated ?? 0,
    },
    n_prompt_tokens: running?.numPrompt ?? 0,
    n_prompt_tokens_processed: running?.numPrefilled ?? 0,
    /** Tokens whose rows `save` would write. */
    n_kept: kept?.numTokens ?? 0,
  };
}

async function actOnSlot(operated: Operated, request: OperatorRequest): Promise<Response> {
  const action = z.enum(SLOT_ACTIONS).safeParse(request.query("action")).data;
  if (action === undefined) {
    throw badRequest("`action` must be save, restore or erase: POST /slots/0?action=save.", {
      param: "action",
      code: "invalid_value",
    });
  }
  const id = request.param("id") ?? "";
  if (!/^\d{1,6}$/.test(id)) {
    throw badRequest("The slot must be a number: POST /slots/0?action=save.", {
      param: "id_slot",
      code: "invalid_value",
    });
  }
  const slot = Number(id);
  if (action === "erase") {
    const { engine } = operated.model();
    const { numTokens } = await act(engine, { action, slot });
    return Response.json({ id_slot: slot, n_erased: numTokens });
  }
  const raw = await readJsonObject(request.raw, operated.bodyLimits, EXAMPLE);
  const { filename } = parseBody(slotFileSchema, raw);
  const { engine } = operated.model();
  const { numTokens, bytes, ms } = await act(engine, { action, slot, filename });
  return Response.json(
    action === "save"
      ? {
        id_slot: slot,
        filename,
        n_saved: numTokens,
        n_written: bytes,
        timings: { save_ms: ms },
      }
      : {
        id_slot: slot,
        filename,
        n_restored: numTokens,
        n_read: bytes,
        timings: { restore_ms: ms },
      },
  );
}

/** Statuses of what can be wrong; a client may come again after 409 and 503. */
const STATUSES: Readonly<Record<SlotErrorCode, number>> = {
  slot_name: 400,
  slot_unknown: 400,
  slot_busy: 409,
  slot_empty: 404,
  slot_no_room: 503,
  slot_folder_missing: 501,
  slot_folder_full: 507,
  slot_file_missing: 404,
  slot_file_damaged: 422,
  slot_file_foreign: 422,
  slot_file_too_long: 422,
  slot_file_unwritable: 507,
};

async function act(engine: Engine, request: SlotRequest): Promise<SlotReply> {
  try {
    return await engine.slot(request);
  } catch (thrown) {
    throw slotFailure(thrown);
  }
}

/** Codes of an engine that will not answer any more. */
const GONE = ["device_lost", "engine_crashed", "engine_closed", "internal"] as const;

/** An error of a slot as an answer; it has come from another isolate, so its name is what tells. */
function slotFailure(thrown: unknown): unknown {
  if (!(thrown instanceof Error)) return thrown;
  const code = String(Reflect.get(thrown, "code"));
  const gone = GONE.find((name) => name === code);
  // What makes one of a loop that broke: `ModelLife` tells the same to requests that come later.
  if (gone !== undefined) {
    return engineFailure({
      code: gone === "internal" ? "engine_crashed" : gone,
      message: thrown.message,
    });
  }
  if (thrown.name !== "SlotError") return thrown;
  const status = (STATUSES as Readonly<Record<string, number>>)[code] ?? 500;
  const type = status === 404
    ? "not_found_error"
    : status === 503
    ? "unavailable_error"
    : status >= 500
    ? "server_error"
    : "invalid_request_error";
  const { message } = thrown;
  return new RequestError(status, type, `${message[0]?.toUpperCase()}${message.slice(1)}.`, {
    code,
    cause: thrown,
    headers: status === 409 || status === 503
      ? { "retry-after": "1" }
      : { "x-should-retry": "false" },
  });
}
