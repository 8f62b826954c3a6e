/** Checks a body by its schema, and says what is wrong with it. @module */
import type { z } from "zod";
import { badRequest, type RequestError } from "./errors.ts";

function pathText(path: readonly PropertyKey[]): string {
  return path.map((key, depth) =>
    typeof key === "number" ? `[${key}]` : `${depth === 0 ? "" : "."}${String(key)}`
  ).join("");
}

function show(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "an object";
  const shown = JSON.stringify(value) ?? "nothing";
  return shown.length > 60 ? `${shown.slice(0, 60)}...` : shown;
}

function valueAt(body: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, key) =>
      typeof value === "object" && value !== null && Object.hasOwn(value, key)
        ? Reflect.get(value, key)
        : undefined,
    body,
  );
}

/**
 * Checks a body. Unknown fields are ignored, but for those of `kv`.
 *
 * @throws {RequestError} 400 that names the field, the rule and the value.
 */
export function parseBody<S extends z.ZodType>(
  schema: S,
  body: Readonly<Record<string, unknown>>,
): z.output<S> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  throw refusal(result.error.issues[0], body);
}

function refusal(issue: z.core.$ZodIssue | undefined, body: unknown): RequestError {
  const path = issue?.path ?? [];
  const rule = issue?.message ?? "is not valid";
  const value = valueAt(body, path);
  const param = pathText(path);
  if (value === undefined || rule === "is required") {
    return badRequest(`\`${param}\` is required.`, { param, code: "missing_required_parameter" });
  }
  const seen = rule.startsWith("must") && !/^must have|^must not be empty$|, but is /.test(rule)
    ? `, but is ${show(value)}`
    : "";
  return badRequest(`\`${param}\` ${rule}${seen}.`, { param, code: "invalid_value" });
}
