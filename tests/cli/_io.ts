/** Surroundings for a command line without a process. @module */
import type { CliIo, Interrupt } from "../../src/cli/io.ts";

/** Thrown where a process would end. */
export class Exited extends Error {
  constructor(readonly code: number) {
    super(`exit ${code}`);
  }
}

/** Records what is written; input, environment and interrupts come from the test. */
export class FakeIo implements CliIo {
  out = "";
  err = "";
  readonly stderrIsTerminal = false;
  readonly args: readonly string[] = [];
  readonly stdinIsTerminal: boolean;
  #handlers = new Set<(signal: Interrupt) => void>();

  constructor(
    private readonly options: {
      readonly env?: Readonly<Record<string, string>>;
      readonly lines?: AsyncIterable<string> | Iterable<string>;
      readonly stdinIsTerminal?: boolean;
      /** Sees standard output as it comes. */
      readonly onOut?: (io: FakeIo) => void;
    } = {},
  ) {
    this.stdinIsTerminal = options.stdinIsTerminal ?? false;
  }

  stdout(text: string): void {
    this.out += text;
    this.options.onOut?.(this);
  }

  stderr(text: string): void {
    this.err += text;
  }

  env(name: string): string | undefined {
    return this.options.env?.[name];
  }

  async *stdinLines(): AsyncIterableIterator<string> {
    yield* this.options.lines ?? [];
  }

  onInterrupt(handler: (signal: Interrupt) => void): Disposable {
    this.#handlers.add(handler);
    return { [Symbol.dispose]: () => void this.#handlers.delete(handler) };
  }

  /** Presses Ctrl-C, or sends SIGTERM. */
  interrupt(signal: Interrupt): void {
    for (const handler of [...this.#handlers]) handler(signal);
  }

  exit(code: number): never {
    throw new Exited(code);
  }
}
