/** `chat`: a conversation in the terminal. @module */
import { TemplateError } from "../../tokenizer/types.ts";
import type { ChatMessage } from "../../tokenizer/types.ts";
import { CommandError, defineCommand, MisfitError } from "../command.ts";
import { type Settings, valueFlag } from "../flags.ts";
import { type GenerationResult, runGeneration } from "../generation.ts";
import { type CliIo, EXIT } from "../io.ts";
import { exitLimit } from "../interrupt.ts";
import { engineFlags, engineOptions, maxSeqsFlag } from "../model_flags.ts";
import { prefillProgress } from "../progress.ts";
import { samplingFlags, samplingParams } from "../sampling_flags.ts";
import { type OpenSession, openSession, type Session } from "../session.ts";
import { anyText, integer } from "../values.ts";

const HELP = "Type a message and Enter. /reset forgets the conversation, /system TEXT sets the " +
  "system prompt\nand resets, /help shows this, /exit, Ctrl-D or Ctrl-C ends. Ctrl-C stops an " +
  "answer.\n";

const flags = {
  system: valueFlag({
    group: "Conversation",
    help: "system prompt",
    placeholder: "TEXT",
    schema: anyText,
    fallback: null,
    fallbackText: "what the model's template says",
  }),
  maxTokens: valueFlag({
    group: "Conversation",
    help: "tokens that an answer has at most",
    placeholder: "N",
    short: "n",
    schema: integer(1, 2 ** 31 - 1),
    fallback: null,
    fallbackText: "whatever the context has room for",
  }),
  ...samplingFlags(0.7),
  ...engineFlags,
  maxSeqs: maxSeqsFlag(1),
} as const;

type ChatSettings = Settings<typeof flags>;

/** The command, over a way to open a session. */
export function chatCommand(open: OpenSession) {
  return defineCommand({
    name: "chat",
    summary: "holds a conversation in the terminal",
    usage: ["chat [flags]"],
    notes: [
      HELP.replaceAll("\n", " ").trim(),
      "Messages can be piped in, one a line. Special tokens written in a message are plain text.",
    ],
    flags,
    async run(settings, io) {
      const session = await open(engineOptions(settings, settings.maxSeqs), io, "chat");
      try {
        return await new Conversation(session, settings, io).run();
      } finally {
        await session.close();
      }
    },
  });
}

/** The loop of questions and answers. */
class Conversation {
  readonly #session: Session;
  readonly #settings: ChatSettings;
  readonly #io: CliIo;
  #system: string | null;
  #messages: ChatMessage[] = [];
  /** Stops the answer that is being written. */
  #stopAnswer: (() => void) | undefined;
  #ended = false;
  #end: () => void = () => {};

  constructor(session: Session, settings: ChatSettings, io: CliIo) {
    if (session.template === undefined || session.tokenizer === undefined) {
      throw new MisfitError("this model has no chat template: use generate");
    }
    this.#session = session;
    this.#settings = settings;
    this.#io = io;
    this.#system = settings.system;
  }

  async run(): Promise<number> {
    if (this.#io.stdinIsTerminal) this.#io.stderr(HELP);
    const ended = new Promise<null>((resolve) => {
      this.#end = () => {
        this.#ended = true;
        resolve(null);
      };
    });
    using ending = new DisposableStack();
    let isTerminated = false;
    using _listener = this.#io.onInterrupt((signal) => {
      // Ctrl-C belongs to the answer while there is one; SIGTERM always means the program, and it
      // does not wait for a step of the device that takes too long.
      if (signal === "SIGTERM") {
        if (isTerminated) this.#io.exit(EXIT.ok);
        isTerminated = true;
        ending.use(exitLimit(this.#io, EXIT.ok));
        this.#end();
      }
      if (this.#stopAnswer !== undefined) this.#stopAnswer();
      else this.#end();
    });
    const lines = this.#io.stdinLines();
    while (!this.#ended) {
      if (this.#io.stdinIsTerminal) this.#io.stderr("> ");
      const line = await Promise.race([lines.next(), ended]);
      if (line === null || line.done === true) {
        if (this.#io.stdinIsTerminal) this.#io.stderr("\n");
        break;
      }
      await this.#take(line.value.trim());
    }
    return EXIT.ok;
  }

  async #take(line: string): Promise<void> {
    if (line === "") return;
    if (!line.startsWith("/")) return await this.#answer(line);
    const [name = "", ...words] = line.split(/\s+/);
    if (name === "/exit" || name === "/quit") this.#end();
    else if (name === "/help") this.#io.stderr(HELP);
    else if (name === "/reset") {
      this.#messages = [];
      this.#io.stderr("The conversation is forgotten.\n");
    } else if (name === "/system") {
      const text = words.length === 0 ? null : line.slice(name.length).trim();
      this.#system = text;
      this.#messages = [];
      this.#io.stderr(`System prompt ${text === null ? "removed" : "set"}, conversation reset.\n`);
    } else {
      this.#io.stderr(`Unknown command ${name}: there are /reset, /system, /help and /exit.\n`);
    }
  }

  async #answer(question: string): Promise<void> {
    const asked: ChatMessage = { role: "user", content: question };
    const system: ChatMessage[] = this.#system === null
      ? []
      : [{ role: "system", content: this.#system }];
    const controller = new AbortController();
    this.#stopAnswer = () => controller.abort();
    try {
      const rendered = await this.#session.template?.render(
        [...system, ...this.#messages, asked],
        { addGenerationPrompt: true },
      );
      const result = await this.#write(rendered?.ids ?? [], controller.signal);
      if (result === undefined) return;
      this.#messages.push(asked, { role: "assistant", content: result.text ?? "" });
    } catch (error) {
      // One question that does not work is no reason to lose the conversation.
      if (!(error instanceof CommandError) && !(error instanceof TemplateError)) throw error;
      this.#io.stderr(`${error.message}\n`);
    } finally {
      this.#stopAnswer = undefined;
    }
  }

  async #write(
    promptIds: readonly number[],
    signal: AbortSignal,
  ): Promise<GenerationResult | undefined> {
    const { contextLength } = this.#session.engine.info;
    const room = contextLength - promptIds.length;
    if (room < 1) {
      this.#io.stderr(
        `The conversation has ${promptIds.length} tokens, but the context holds ` +
          `${contextLength}. /reset starts a new one.\n`,
      );
      return undefined;
    }
    const prefill = prefillProgress(this.#io);
    const wanted = this.#settings.maxTokens ?? room;
    try {
      const result = await runGeneration(this.#session, {
        promptIds,
        maxTokens: Math.min(wanted, room),
        sampling: samplingParams(this.#settings),
        stop: this.#settings.stop,
        ignoreEos: this.#settings.ignoreEos,
      }, {
        signal,
        onPrefill: (processed, total) => prefill.report(processed, total),
        onToken: () => prefill.stop(),
        onText: (piece) => this.#io.stdout(piece),
      });
      this.#io.stdout("\n");
      if (result.finishReason === "cancelled") this.#io.stderr("(stopped)\n");
      if (result.finishReason === "length") {
        const why = wanted < room ? `--max-tokens ${wanted}` : "no room for more tokens";
        this.#io.stderr(`(cut: ${why})\n`);
      }
      return result;
    } finally {
      prefill.stop();
    }
  }
}

export const command = chatCommand(openSession);
