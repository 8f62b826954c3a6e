/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
/**
 * Worker that renders chat templates, so that a template that hangs can be ended. One request at a
 * time, one reply to each.
 *
 * @module
 */

import { answer, guardBuiltins } from "./template_engine.ts";
import type { TemplateReply, TemplateRequest } from "./template_protocol.ts";

guardBuiltins();

const reply = (message: TemplateReply) => self.postMessage(message);

self.onmessage = (event: MessageEvent<TemplateRequest>) => reply(answer(event.data));

reply({ type: "ready" });
