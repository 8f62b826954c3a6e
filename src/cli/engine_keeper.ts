/** Keeps a server's engine: starts it, and starts it once more when it is lost. @module */
import type { Engine, EngineErrorData } from "../engine/types.ts";

/** What a {@linkcode EngineKeeper} works with. */
export interface KeeperParts {
  readonly open: () => Promise<Engine>;
  /** Gets every engine, while it starts. */
  readonly onStart: (engine: Promise<Engine>) => void;
  /** Fires when the server is to end: what is lost then is not started again. */
  readonly ending: AbortSignal;
  /** Told in a line what happens. */
  readonly say: (line: string) => void;
}

/** An engine that was lost and did not come back, or was lost once more. */
export class EngineLostError extends Error {
  override readonly name = "EngineLostError";
}

/**
 * An engine and its only successor. A second loss means that something is wrong which another start
 * in this process does not mend: whoever looks after the process starts a new one.
 */
export class EngineKeeper {
  readonly #parts: KeeperParts;
  #engine: Promise<Engine>;
  #isUp = false;
  readonly #lost = Promise.withResolvers<EngineLostError>();
  /** Kept when there will be no engine any more. */
  readonly lost = this.#lost.promise;
  /** What is still to be tidied up. */
  #tidying: Promise<void> = Promise.resolve();

  constructor(parts: KeeperParts) {
    this.#parts = parts;
    this.#engine = this.#start();
    this.#engine.then((engine) => this.#watch(engine, true), () => {});
  }

  /** The newest engine. @throws Whatever keeps it from starting. */
  get engine(): Promise<Engine> {
    return this.#engine;
  }

  /** An engine is there. */
  get isUp(): boolean {
    return this.#isUp;
  }

  /** Leaves everything in order for a process that ends. Waits for an engine that starts. */
  async settle(): Promise<void> {
    await this.#tidying;
    await this.#engine.then((engine) => engine.settle(), () => {});
  }

  #start(): Promise<Engine> {
    const engine = this.#parts.open();
    this.#parts.onStart(engine);
    engine.then(() => this.#isUp = true, () => {});
    return engine;
  }

  #watch(engine: Engine, mayStartAgain: boolean): void {
    engine.lost.then((reason) => {
      this.#isUp = false;
      if (this.#parts.ending.aborted) return;
      if (!mayStartAgain) {
        this.#lost.resolve(new EngineLostError(`the engine is lost again: ${reason.message}`));
      } else this.#tidying = this.#startAgain(engine, reason);
    });
  }

  async #startAgain(old: Engine, reason: EngineErrorData): Promise<void> {
    this.#parts.say(`the engine is lost, and is started once more: ${reason.message}`);
    // Before the next one: both use the same files, and its memory is needed.
    this.#engine = tidyUp(old).then(() => {
      // Meanwhile the server was told to end: loading a model would only hold that up.
      if (this.#parts.ending.aborted) throw new EngineLostError("the server ends");
      return this.#start();
    });
    try {
      const engine = await this.#engine;
      this.#parts.say("the engine is back");
      this.#watch(engine, false);
    } catch (cause) {
      if (this.#parts.ending.aborted) return;
      const why = cause instanceof Error ? cause.message : String(cause);
      const message = `the engine is lost and does not start again: ${why}`;
      this.#lost.resolve(new EngineLostError(message, { cause }));
    }
  }
}

/** Saves what can be saved of a lost engine, and frees what it has. */
async function tidyUp(engine: Engine): Promise<void> {
  try {
    await engine.settle();
    await engine.close();
  } catch {
    // It is lost: nothing more can be done for it.
  }
}
