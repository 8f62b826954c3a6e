/** The flags of `serve` that say who may ask, and for how much. @module */
import { DEFAULT_LIMITS, type RequestLimits } from "../server/admission/limits.ts";
import type { GuardOptions } from "../server/guard/guard.ts";
import { isLoopback, isOriginEntry } from "../server/guard/origins.ts";
import { MOST_TOGETHER } from "../server/listener/connections.ts";
import { type ConnectionLimits, DEFAULT_CONNECTION_LIMITS } from "../server/listener/listener.ts";
import { MAX_COMPLETIONS } from "../server/schemas.ts";
import { listFlag, type Settings, switchFlag, UsageError, valueFlag } from "./flags.ts";
import { KEY_PATTERN, keysOfFile } from "./key_file.ts";
import { decimal, integer, text } from "./values.ts";

const access = "Access";
const limits = "Limits";
const SECOND = 1000;

const apiKey = text.regex(KEY_PATTERN, "wanted visible ASCII characters without blanks");
const hostName = text.regex(/^[^\s/:@]+$/, "wanted a host name without scheme and port");
const corsOrigin = text.refine(
  isOriginEntry,
  "wanted an origin (https://a.example), localhost or *",
);

/** Flags of keys, names and origins. */
export const accessFlags = {
  apiKey: listFlag({
    group: access,
    help: "key that requests must have; other users of this machine may see it in the list of " +
      "processes, but not in a variable or a file",
    placeholder: "KEY",
    schema: apiKey,
    secret: true,
  }),
  apiKeyFile: valueFlag({
    group: access,
    help: "file with a key in each line; empty lines and those that begin with # count for nothing",
    placeholder: "FILE",
    schema: text,
    fallback: null,
  }),
  insecure: switchFlag({
    group: access,
    help: "listen beyond this machine without any key",
  }),
  allowedHost: listFlag({
    group: access,
    help: "name that the Host header may have beside addresses and localhost, for a proxy in front",
    placeholder: "NAME",
    schema: hostName,
  }),
  corsOrigin: listFlag({
    group: access,
    help: "origin whose web pages may use the server; localhost: all that this machine serves, " +
      "*: all",
    placeholder: "ORIGIN",
    schema: corsOrigin,
  }),
} as const;

/** Flags of bounds. */
export const limitFlags = {
  maxQueue: valueFlag({
    group: limits,
    help: "sequences that may wait; when so many do, requests get 429",
    placeholder: "N",
    schema: integer(0, 2 ** 20),
    fallback: DEFAULT_LIMITS.maxQueue,
  }),
  maxN: valueFlag({
    group: limits,
    help: `answers to one prompt (n), ${MAX_COMPLETIONS} at most`,
    placeholder: "N",
    schema: integer(1, MAX_COMPLETIONS),
    fallback: DEFAULT_LIMITS.maxAnswers,
  }),
  maxPromptChars: valueFlag({
    group: limits,
    help: "characters that a prompt or a conversation may have",
    placeholder: "N",
    schema: integer(1, 2 ** 30),
    fallback: DEFAULT_LIMITS.maxPromptCharacters,
    fallbackText: "16 for each token of the context",
  }),
  bodyLimit: valueFlag({
    group: limits,
    help: "bytes that the body of a request may have",
    placeholder: "BYTES",
    schema: integer(1024, 2 ** 30),
    fallback: DEFAULT_LIMITS.bodyBytes,
  }),
  headerTimeout: valueFlag({
    group: limits,
    help: "seconds in which the header of a request has to come",
    placeholder: "SECONDS",
    schema: decimal(0.1, 3600),
    fallback: DEFAULT_CONNECTION_LIMITS.headerTimeoutMs / SECOND,
  }),
  bodyTimeout: valueFlag({
    group: limits,
    help: `seconds that the body of a request may bring nothing; all of it has ${
      DEFAULT_LIMITS.bodyTotalMs / SECOND
    } s, or this if it is more`,
    placeholder: "SECONDS",
    schema: decimal(0.1, 3600),
    fallback: DEFAULT_LIMITS.bodyTimeoutMs / SECOND,
  }),
  requestTimeout: valueFlag({
    group: limits,
    help: "seconds that an answer may take, waiting included; 0 is no bound",
    placeholder: "SECONDS",
    schema: decimal(0, 2 ** 20),
    fallback: (DEFAULT_LIMITS.requestTimeoutMs ?? 0) / SECOND,
  }),
  maxConnections: valueFlag({
    group: limits,
    help:
      "connections that one address may have, of IPv6 one network of 64 bits; 0 is no bound of " +
      `one. All addresses together have ${MOST_TOGETHER}, or this if it is more`,
    placeholder: "N",
    schema: integer(0, 2 ** 20),
    fallback: DEFAULT_CONNECTION_LIMITS.maxConnectionsPerAddress,
  }),
} as const;

/**
 * Who may ask a server on an address.
 *
 * @throws {UsageError} If others could reach it without a key.
 * @throws {MisfitError} If the file of keys cannot be read.
 */
export function guardOptions(settings: Settings<typeof accessFlags>, host: string): GuardOptions {
  const { apiKeyFile, insecure, allowedHost, corsOrigin } = settings;
  const apiKeys = [...settings.apiKey, ...(apiKeyFile === null ? [] : keysOfFile(apiKeyFile))];
  const loopback = isLoopback(host);
  if (!loopback && apiKeys.length === 0 && !insecure) {
    throw new UsageError(
      `--host ${host} can be reached from other machines: give an --api-key or an ` +
        "--api-key-file, or say --insecure to let everybody in",
    );
  }
  const names = allowedHost.map((name) => name.toLowerCase());
  // Beyond the loopback nobody knows by what names a machine is called, unless told.
  return {
    apiKeys,
    allowedHosts: loopback || names.length > 0 ? [...names, host.toLowerCase()] : null,
    corsOrigins: corsOrigin,
  };
}

/** What is worth saying about who may ask. */
export function guardNotes({ apiKeys, corsOrigins }: GuardOptions, host: string): string[] {
  if (apiKeys.length > 0) return [];
  const notes = [];
  if (!isLoopback(host)) {
    notes.push(`${host} can be reached from other machines, and everybody may use the model`);
  }
  if (corsOrigins.includes("*")) notes.push("every web page that is open here may use the model");
  return notes;
}

/** All of a body may take longer than a part of it. */
function bodyTotalMs({ bodyTimeout }: Settings<typeof limitFlags>): number {
  return Math.max(DEFAULT_LIMITS.bodyTotalMs, bodyTimeout * SECOND);
}

/** Bounds of requests. */
export function requestLimits(settings: Settings<typeof limitFlags>): Partial<RequestLimits> {
  return {
    maxQueue: settings.maxQueue,
    maxAnswers: settings.maxN,
    maxPromptCharacters: settings.maxPromptChars,
    bodyBytes: settings.bodyLimit,
    bodyTimeoutMs: settings.bodyTimeout * SECOND,
    bodyTotalMs: bodyTotalMs(settings),
    requestTimeoutMs: settings.requestTimeout === 0 ? null : settings.requestTimeout * SECOND,
  };
}

/** Bounds of connections. */
export function connectionLimits(
  settings: Settings<typeof limitFlags>,
): Omit<ConnectionLimits, "unreadMs"> {
  return {
    headerTimeoutMs: settings.headerTimeout * SECOND,
    bodyTotalMs: bodyTotalMs(settings),
    maxConnectionsPerAddress: settings.maxConnections,
  };
}
