/** The OpenAPI description of the routes that a server has, from the schemas that check requests. @module */
import { z } from "zod";
import { KEYLESS_PATHS } from "../guard/guard.ts";
import { errorAnswer } from "./answers.ts";
import { type RouteBody, type RouteDescription, type RoutePart, ROUTES } from "./routes.ts";

/** A JSON value of the document. */
export type Json = Readonly<Record<string, unknown>>;

/** A document of OpenAPI 3.1, as far as its reader here needs to know it. */
export interface OpenApiDocument {
  readonly openapi: string;
  readonly info: { readonly title: string; readonly version: string; readonly description: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Json>>>>;
  readonly [member: string]: unknown;
}

/** A route that a server has. */
export interface ServedRoute {
  readonly method: string;
  readonly path: string;
  /** Part of it is 501, because the server was started without what that needs. */
  readonly isPartial?: boolean;
}

/** Errors, and what they mean. */
export const ERRORS: Readonly<Record<number, string>> = {
  400: "a field is missing or wrong (`param` names it), or the prompt does not fit the context",
  401: "a key is needed, and this is none",
  403: "the address or page that the request comes from may not use this server",
  404: "there is no such thing",
  405: "the route takes another method, which `Allow` names",
  408: "the request did not come in time",
  409: "the slot is in use: come again after `Retry-After` seconds",
  413: "the body is too large",
  422: "the file is damaged, or of another model, or longer than the context",
  429: "too much is waiting, or too many connections: come again after `Retry-After` seconds",
  431: "the header is too large",
  500: "a fault of the server",
  501: "the server was started without what this needs",
  503: "not ready, or no room: come again after `Retry-After` seconds, if it says so",
  504: "the answer took longer than it may",
  507: "there is no room for the file",
};
/** Those that any route can answer with: the last three before there is a route. */
const EVERYWHERE = [400, 401, 403, 404, 405, 500, 503, 408, 429, 431];
/** Those of bodies. */
const WITH_BODY = [413];
/** Headers that every answer of a status has. */
const HEADERS: Readonly<Record<number, object>> = {
  405: {
    Allow: { description: "the methods that the route takes", schema: { type: "string" } },
  },
  429: {
    "Retry-After": { description: "seconds to wait", schema: { type: "integer", minimum: 1 } },
  },
};

/** The descriptions of the routes that a server has, in the order of the table. */
export function describedRoutes(served: readonly ServedRoute[]): RouteDescription[] {
  const has = new Map(
    served.map(({ method, path, isPartial = false }) => [`${method} ${path}`, isPartial]),
  );
  return ROUTES.flatMap((route) => {
    const isPartial = has.get(`${route.method} ${route.path}`);
    if (isPartial === undefined) return [];
    return isPartial && route.partly !== undefined ? [withoutPart(route, route.partly)] : [route];
  });
}

/** A route as it is where part of it is not there. */
function withoutPart(route: RouteDescription, { details, query }: RoutePart): RouteDescription {
  const { body: { example: _, ...body } = {} } = route;
  return {
    ...route,
    details: route.details === undefined ? details : `${route.details} ${details}`,
    query,
    ...(route.body === undefined ? {} : { body: body as RouteBody }),
  };
}

/** Makes the document. */
export function openApiDocument(
  served: readonly ServedRoute[],
  version: string,
): OpenApiDocument {
  const routes = describedRoutes(served);
  const paths: Record<string, Record<string, Json>> = {};
  for (const route of routes) {
    (paths[route.path] ??= {})[route.method.toLowerCase()] = operation(route);
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "TokenButler",
      version,
      description: "A language model over the OpenAI HTTP API. Fields that are `null` count as " +
        "not set; unknown fields are ignored, but for those of `kv` and those that would change " +
        "the answer and are not built. Every answer has an `x-request-id`.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
    // A key is needed where the server was started with one.
    security: [{}, { bearer: [] }, { header: [] }],
    tags: [...new Set(routes.map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: {
      schemas: {
        ...Object.fromEntries(
          routes.flatMap(({ chunk }) =>
            chunk === undefined ? [] : [[chunk.name, jsonSchema(chunk.schema, "output")]]
          ),
        ),
        Error: jsonSchema(errorAnswer, "output"),
      },
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer" },
        header: { type: "apiKey", in: "header", name: "x-api-key" },
      },
    },
  } as OpenApiDocument;
}

function operation(route: RouteDescription): Json {
  const { method, path, tag, summary, details, parameters = [], body } = route;
  return {
    operationId: `${method.toLowerCase()}${path.replace(/[^A-Za-z0-9]+/g, "_")}`.replace(/_$/, ""),
    tags: [tag],
    summary,
    ...(details === undefined ? {} : { description: details }),
    ...(KEYLESS_PATHS.has(path) ? { security: [] } : {}),
    ...(parameters.length === 0 ? {} : {
      parameters: parameters.map((each) => ({
        ...each,
        required: each.in === "path" || (each.required ?? false),
      })),
    }),
    ...(body === undefined ? {} : {
      requestBody: {
        required: !(body.optional ?? false),
        content: {
          "application/json": {
            schema: bodySchema(route),
            ...(body.example === undefined ? {} : { example: body.example }),
          },
        },
      },
    }),
    responses: { 200: success(route), ...errors(route) },
  };
}

/** Schema of a route's body, with a line for each field. */
export function bodySchema({ body }: RouteDescription): Json {
  if (body === undefined) return {};
  const schema = jsonSchema(body.schema, "input");
  const properties = schema["properties"] as Readonly<Record<string, Json>>;
  return {
    ...schema,
    properties: Object.fromEntries(
      Object.entries(properties).map(([name, property]) => [
        name,
        { ...property, description: body.fields[name] },
      ]),
    ),
  };
}

function success({ answer, chunk }: RouteDescription): Json {
  if ("media" in answer) {
    const schema = answer.media === "application/json" ? { type: "object" } : { type: "string" };
    return { description: "the answer", content: { [answer.media]: { schema } } };
  }
  return {
    description: "the answer",
    content: {
      "application/json": { schema: jsonSchema(answer, "output") },
      ...(chunk === undefined ? {} : { "text/event-stream": { schema: eventSchema(chunk.name) } }),
    },
  };
}

/** OpenAPI 3.1 has no word for events: the schema is that of the data of each. */
function eventSchema(name: string): Json {
  return {
    description: "The data of each event. Lines that begin with a colon are comments.",
    anyOf: [
      { $ref: `#/components/schemas/${name}` },
      { $ref: "#/components/schemas/Error" },
      { const: "[DONE]" },
    ],
  };
}

function errors({ body, errors = [] }: RouteDescription): Json {
  const content = { "application/json": { schema: { $ref: "#/components/schemas/Error" } } };
  const statuses = [...EVERYWHERE, ...body === undefined ? [] : WITH_BODY, ...errors];
  return Object.fromEntries(
    statuses.map((status) => [status, {
      description: ERRORS[status],
      ...status in HEADERS ? { headers: HEADERS[status] } : {},
      content,
    }]),
  );
}

/** A JSON Schema of a zod schema, as a part of a document. */
function jsonSchema(schema: z.ZodType, io: "input" | "output"): Json {
  return withoutDialect(z.toJSONSchema(schema, { io })) as Json;
}

/** The dialect stands once, for the document. */
function withoutDialect(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutDialect);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).filter(([key]) => key !== "$schema" && key !== "~standard")
      .map(([key, member]) => [key, withoutDialect(member)]),
  );
}
