/** `/docs`: the description of the routes as one page that needs nothing else. @module */
import { KEYLESS_PATHS } from "../guard/guard.ts";
import { bodySchema, describedRoutes, ERRORS, type Json, type ServedRoute } from "./document.ts";
import type { RouteDescription } from "./routes.ts";

/**
 * Headers of the page: it runs nothing and loads nothing, whatever is in it. Nobody keeps it for others,
 * who may have another address for the server.
 */
export const PAGE_HEADERS: Readonly<Record<string, string>> = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy":
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; " +
    "frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
};

const STYLE = `
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h2 { margin: 2.5rem 0 0; }
h3 { margin: 2rem 0 .25rem; font-family: ui-monospace, monospace; font-size: 1.05rem; }
nav ul { columns: 2 18rem; list-style: none; padding: 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: color-mix(in srgb, currentColor 8%, transparent); border-radius: 6px;
  overflow-x: auto; padding: .75rem; }
.method { border: 1px solid; border-radius: 4px; font-size: .8em; padding: .1em .4em; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent);
  padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td code { white-space: nowrap; }
td.type code { white-space: normal; }
@media (max-width: 40rem) { body { font-size: 15px; } }
`;

/** What stands in the place of the address until somebody asks for the page; never in a text. */
const ADDRESS = "\0";

/** What a page shows beside the routes. */
export interface PageOptions {
  readonly version: string;
  readonly modelName: string;
  /**
   * Whether requests need a key: examples have one then, and the page, which needs none, does not
   * name the model.
   */
  readonly needsKey: boolean;
}

/**
 * Makes the page.
 *
 * @returns The page for whoever has reached the server at an address (`http://HOST:PORT`).
 */
export function docsPage(
  served: readonly ServedRoute[],
  options: PageOptions,
): (address: string) => string {
  const parts = pageText(served, options).split(ADDRESS);
  return (address) => parts.join(escape(address));
}

function pageText(
  served: readonly ServedRoute[],
  { version, modelName, needsKey }: PageOptions,
): string {
  const routes = describedRoutes(served);
  const serving = needsKey ? "" : `, serving ${code(modelName)}`;
  const tags = [...new Set(routes.map(({ tag }) => tag))];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TokenButler: HTTP API</title>
<style>${STYLE}</style>
</head>
<body>
<h1>TokenButler</h1>
<p>Version ${escape(version)}${serving}. Any client of the OpenAI
API works with the address of this server and <code>/v1</code> behind it. For programs:
<a href="openapi.json">openapi.json</a>.</p>
<p>Fields that are <code>null</code> count as not set. Unknown fields are ignored, but for those of
<code>kv</code> and those that would change the answer and are not built. Every answer has an
<code>x-request-id</code>; every error is <code>{"error": {"message", "type", "param",
"code"}}</code>.</p>
<p>${keyText(needsKey)}</p>
<nav aria-label="Routes"><ul>
${routes.map((route) => `<li><a href="#${anchor(route)}">${title(route)}</a></li>`).join("\n")}
</ul></nav>
${tags.map((tag) => section(tag, routes.filter((route) => route.tag === tag), needsKey)).join("\n")}
<h2>Errors</h2>
${errorTable()}
</body>
</html>
`;
}

function keyText(needsKey: boolean): string {
  if (!needsKey) return "This server was started without keys: whoever reaches it may ask.";
  return "Requests need one of the keys that this server was started with, as " +
    `${code("Authorization: Bearer KEY")} or ${code("x-api-key: KEY")}. Without one it answers ` +
    `${[...KEYLESS_PATHS].map(code).join(", ")} alone.`;
}

function section(tag: string, routes: readonly RouteDescription[], needsKey: boolean): string {
  const texts = routes.map((route) => routeText(route, needsKey));
  return `<h2>${escape(tag)}</h2>\n${texts.join("\n")}`;
}

function routeText(route: RouteDescription, needsKey: boolean): string {
  const { summary, details, parameters = [], body } = route;
  const rows = [
    ...parameters.map(({ name, schema, description, required, in: place }) =>
      row(`${name} (${place})`, schema as Json, description, place === "path" || !!required)
    ),
    ...fieldRows(route),
  ];
  return [
    `<h3 id="${anchor(route)}">${title(route)}</h3>`,
    `<p>${prose(`${summary[0]?.toUpperCase()}${summary.slice(1)}.`)}</p>`,
    details === undefined ? "" : `<p>${prose(details)}</p>`,
    rows.length === 0 ? "" : table(rows),
    body === undefined ? "" : `<pre>${escape(curl(route, needsKey))}</pre>`,
  ].filter((part) => part !== "").join("\n");
}

function table(rows: readonly string[]): string {
  return '<div class="table"><table><thead><tr><th>Field</th><th>Type</th><th>Default</th>' +
    `<th>Meaning</th></tr></thead><tbody>\n${rows.join("\n")}\n</tbody></table></div>`;
}

function errorTable(): string {
  const rows = Object.entries(ERRORS).map(([status, meaning]) =>
    `<tr><td><code>${status}</code></td><td>${prose(meaning)}</td></tr>`
  );
  return '<div class="table"><table><thead><tr><th>Status</th><th>Meaning</th></tr></thead><tbody>\n' +
    `${rows.join("\n")}\n</tbody></table></div>`;
}

function fieldRows(route: RouteDescription): string[] {
  const { properties = {}, required = [] } = bodySchema(route) as {
    readonly properties?: Readonly<Record<string, Json>>;
    readonly required?: readonly string[];
  };
  return Object.entries(properties).flatMap(([name, schema]) => [
    row(name, schema, String(schema["description"] ?? ""), required.includes(name)),
    // The members of an object are fields too.
    ...Object.entries((schema["properties"] ?? {}) as Readonly<Record<string, Json>>).map(
      ([member, inner]) => row(`${name}.${member}`, inner, String(inner["description"] ?? "")),
    ),
  ]);
}

function row(name: string, schema: Json, meaning: string, required = false): string {
  const fallback = schema["default"] === undefined ? "" : code(JSON.stringify(schema["default"]));
  return `<tr><td><code>${escape(name)}</code></td><td class="type">${
    code(typeText(schema))
  }</td>` +
    `<td>${required ? "needed" : fallback}</td><td>${prose(meaning)}</td></tr>`;
}

/** A schema in a few words. */
function typeText(schema: Json): string {
  const { type, minimum, maximum, items, maxItems, maxLength } = schema;
  if (Array.isArray(schema["enum"])) return schema["enum"].map(String).join(" | ");
  if ("const" in schema) return JSON.stringify(schema["const"]);
  if (Array.isArray(schema["anyOf"])) {
    return [...new Set(schema["anyOf"].map((each) => typeText(each as Json)))].join(" | ");
  }
  if (Array.isArray(schema["prefixItems"])) {
    return `[${schema["prefixItems"].map((each) => typeText(each as Json)).join(", ")}]`;
  }
  if (Array.isArray(type)) return type.join(" | ");
  if (type === "array") {
    const most = maxItems === undefined ? "" : `, at most ${maxItems}`;
    return `[${typeText((items ?? {}) as Json)}${most}]`;
  }
  const least = minimum === undefined || Math.abs(Number(minimum)) >= 2 ** 53 - 1 ? "" : minimum;
  const most = maximum === undefined || Number(maximum) >= 2 ** 31 - 1 ? "" : maximum;
  const range = `${least}` === "" && `${most}` === "" ? "" : ` ${least}..${most}`;
  const length = maxLength === undefined ? "" : ` to ${maxLength} characters`;
  return `${type ?? "any"}${range}${length}`;
}

function curl({ method, path, query, body }: RouteDescription, needsKey: boolean): string {
  const asked = query === undefined ? "" : `?${query}`;
  const address = `${ADDRESS}${path.replace("{id}", "0")}${asked}`;
  const example = body?.example;
  return [
    `curl -X ${method} '${address}'${
      example === undefined ? "" : " -H 'content-type: application/json'"
    }`,
    ...(needsKey ? ["-H 'authorization: Bearer KEY'"] : []),
    ...(example === undefined ? [] : [`-d '${JSON.stringify(example)}'`]),
  ].join(" \\\n  ");
}

function title({ method, path }: RouteDescription): string {
  return `<span class="method">${method}</span> ${escape(path)}`;
}

function anchor({ method, path }: RouteDescription): string {
  return `${method}${path}`.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/-$/, "");
}

function code(text: string): string {
  return `<code>${escape(text)}</code>`;
}

/** Text with `code` in it. */
function prose(text: string): string {
  return escape(text).replace(/`([^`]*)`/g, "<code>$1</code>");
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (char) => ENTITIES[char] ?? char);
}
