/** What becomes of the model of a server: it loads, serves, may be lost, and may come back. @module */
import type { Engine } from "../../engine/types.ts";
import { engineFailure, loadFailed, loading, type RequestError, shuttingDown } from "../errors.ts";
import type { ServedModel } from "../served_model.ts";

type ModelState =
  | { readonly status: "loading" }
  | { readonly status: "ready"; readonly model: ServedModel }
  | { readonly status: "failed"; readonly cause: unknown }
  | { readonly status: "gone"; readonly error: RequestError };

/** Knows whether there is a model to answer with, and what to say where there is none. */
export class ModelLife {
  #state: ModelState = { status: "loading" };
  #draining = false;
  /** Counts what was loaded: news of an engine that was replaced is no news. */
  #numLoads = 0;
  readonly #onGone: (error: RequestError, engine: Engine) => void;

  /** @param onGone Called when an engine that served is lost. */
  constructor(
    model: ServedModel | Promise<ServedModel>,
    onGone: (error: RequestError, engine: Engine) => void,
  ) {
    this.#onGone = onGone;
    this.load(model);
  }

  /** Serves another model, or the same on a new engine; until the promise is kept, none. */
  load(model: ServedModel | Promise<ServedModel>): void {
    const load = ++this.#numLoads;
    const isNews = () => load === this.#numLoads;
    if (!(model instanceof Promise)) return this.#serve(model, isNews);
    this.#state = { status: "loading" };
    model.then(
      (loaded) => isNews() && this.#serve(loaded, isNews),
      (cause: unknown) => {
        if (isNews()) this.#state = { status: "failed", cause };
      },
    );
  }

  /** The engine that serves; null where there is none. */
  get engine(): Engine | null {
    return this.#state.status === "ready" ? this.#state.model.engine : null;
  }

  /**
   * The model for a new request.
   *
   * @throws {RequestError} 503 where there is none, or the server is about to end.
   */
  model(): ServedModel {
    if (this.#draining) throw shuttingDown();
    if (this.#state.status === "loading") throw loading();
    if (this.#state.status === "failed") throw loadFailed(this.#state.cause);
    if (this.#state.status === "gone") throw this.#state.error;
    return this.#state.model;
  }

  /** Takes no new requests from here on. */
  drain(): void {
    this.#draining = true;
  }

  #serve(model: ServedModel, isNews: () => boolean): void {
    this.#state = { status: "ready", model };
    model.engine.lost.then((reason) => {
      if (!isNews()) return;
      // Whatever broke it: what clients are told is that there is none.
      const code = reason.code === "device_lost" ? reason.code : "engine_crashed";
      const error = engineFailure({ ...reason, code });
      this.#state = { status: "gone", error };
      this.#onGone(error, model.engine);
    });
  }
}
