/** The text side of a model, as the rest of the program sees it. @module */

/** How {@linkcode Tokenizer.encode} treats its text. */
export interface EncodeOptions {
  /** Parse special tokens written in the text (`<|im_end|>`) into their ids. */
  readonly parseSpecial: boolean;
  /** Put the beginning-of-sequence token first where the model file asks for it. */
  readonly addBos: boolean;
}

/** Text to ids and back. Pure and synchronous. */
export interface Tokenizer {
  readonly vocabSize: number;
  /** The family of the vocabulary: pieces with a mark for spaces, or bytes that were merged. */
  readonly kind: "sentencepiece" | "bpe";
  readonly bosId: number | undefined;
  /** The model file asks for BOS before text. */
  readonly addsBos: boolean;
  /** Tokens that end a turn or a text (end of sequence, end of turn, end of message). */
  readonly endIds: ReadonlySet<number>;
  /**
   * Texts are cut by patterns that the model file brings and that are not those of a known family.
   * They may take any time, also for a short text: who serves others encodes where a deadline can
   * end it.
   */
  readonly hasUnknownPatterns: boolean;
  encode(text: string, options: EncodeOptions): number[];
  /**
   * UTF-8 bytes that a token stands for. A byte-fallback or byte-level token may be part of a
   * character. Special tokens give their text.
   *
   * @throws {RangeError} If the id is outside the vocabulary.
   */
  tokenBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
  /**
   * Text of ids; an invalid byte sequence becomes U+FFFD and the bytes of an unfinished character
   * at the end are dropped. `skipSpecial` drops special tokens. A SentencePiece text begins with a
   * space that is not its own; `continues` keeps it, for ids that follow other text.
   */
  decode(ids: readonly number[], options?: { skipSpecial?: boolean; continues?: boolean }): string;
  /** Incremental form of {@linkcode decode}: never emits half a character. */
  stream(options?: { skipSpecial?: boolean; continues?: boolean }): TextStream;
}

/** Turns tokens into text as they come. */
export interface TextStream {
  /** Text that became complete with this token; may be empty. */
  push(id: number): string;
  /** The same for many tokens, which takes far less time than one after the other. */
  pushAll(ids: readonly number[]): string;
  /** Ends the text. The bytes of an unfinished character are dropped. */
  end(): string;
}

/** One message of a conversation, content already joined to plain text. */
export interface ChatMessage {
  readonly role: "system" | "developer" | "user" | "assistant" | "tool";
  readonly content: string;
  readonly name?: string;
}

/** A rendered conversation. */
export interface RenderedChat {
  /** The prompt as text, as `/apply-template` shows it. */
  readonly text: string;
  /**
   * The prompt cut into runs: text that the template itself wrote (its special tokens count) and
   * text that came from message content (special tokens in it are plain text).
   */
  readonly ids: number[];
}

/** How a conversation is rendered. */
export interface RenderOptions {
  /** Whether the beginning of an answer follows; it does unless this is false. */
  readonly addGenerationPrompt?: boolean;
  /** Fires when nobody wants it any more: a conversation that still waits is left out. */
  readonly signal?: AbortSignal;
}

/** The model's own chat template. Rendering is bounded in time and output. */
export interface ChatTemplate {
  readonly source: string;
  /**
   * @throws {TemplateError} If the template refuses the messages, runs too long or writes too much.
   */
  render(messages: readonly ChatMessage[], options?: RenderOptions): Promise<RenderedChat>;
  close(): void;
}

/**
 * A template that failed: its own `raise_exception`, a deadline, or an output over the cap.
 * `unavailable` is none of its doing, nor that of the messages: there is nobody to render it.
 */
export class TemplateError extends Error {
  override readonly name = "TemplateError";
  constructor(
    readonly code: "raised" | "timeout" | "too_long" | "invalid" | "unavailable",
    message: string,
  ) {
    super(message);
  }
}
