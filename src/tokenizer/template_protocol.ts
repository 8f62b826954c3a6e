/** What passes between a chat template and the worker that renders it. @module */

/** Literal and computed `range()` may have at most this many values. */
export const MAX_RANGE = 10_000;

/** Names a template can use. */
export interface TemplateVariables {
  readonly messages: readonly {
    readonly role: string;
    readonly content: string;
    readonly name?: string;
  }[];
  readonly add_generation_prompt: boolean;
  readonly [name: `${string}_token`]: string;
}

/** Bounds of one rendering. */
export interface TemplateLimits {
  /** Milliseconds for parsing and rendering. */
  readonly deadlineMs: number;
  /** UTF-16 units of any string that the template makes. */
  readonly maxLength: number;
}

/** Parses the template, and renders it if there are variables. */
export interface TemplateRequest {
  readonly source: string;
  readonly variables: TemplateVariables | null;
  readonly limits: TemplateLimits;
}

/** `parse`: the source is no template; the others are those of `TemplateError`. */
export type TemplateFailure = "parse" | "raised" | "timeout" | "too_long" | "invalid";

/** The answer to one request; `ready` comes once, unasked, when the worker can take requests. */
export type TemplateReply =
  | { readonly type: "ready" }
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "failed"; readonly code: TemplateFailure; readonly message: string };

/** The message of a `timeout`, whoever notices it. */
export function timeoutMessage(deadlineMs: number): string {
  return `the chat template did not end within ${deadlineMs} ms`;
}
