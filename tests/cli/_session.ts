/** A session over the scripted engine. @module */
import type { OpenSession } from "../../src/cli/session.ts";
import type { EngineOptions } from "../../src/engine/types.ts";
import {
  FakeEngine,
  type FakeEngineOptions,
  FakeTemplate,
  FakeTokenizer,
} from "../server/_fake.ts";

/** A session that needs no device, and what became of it. */
export function fakeSession(options: FakeEngineOptions = {}, hasTokenizer = true) {
  const engine = new FakeEngine(options);
  const tokenizer = new FakeTokenizer(true);
  const seen: { options?: EngineOptions; closed: number } = { closed: 0 };
  const open: OpenSession = (given) => {
    seen.options = given;
    return Promise.resolve({
      engine,
      ...(hasTokenizer
        ? { tokenizer, template: new FakeTemplate(tokenizer) }
        : { endIds: tokenizer.endIds }),
      close: () => {
        seen.closed += 1;
        return Promise.resolve();
      },
    });
  };
  return { engine, seen, open };
}
