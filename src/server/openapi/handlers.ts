/** `GET /openapi.json` and `GET /docs`, made at the first request. @module */
import type { OperatorRoute } from "../operator_routes.ts";
import type { ServedRoute } from "./document.ts";

/** What the two describe. */
export interface DescribedServer {
  /** All routes, these two included. */
  routes(): readonly ServedRoute[];
  readonly version: string;
  readonly servedName: string;
  /** Whether requests need a key. */
  readonly needsKey: boolean;
}

/** What a name of a host is made of: nothing that a shell would read as more than text. */
const PLAIN_HOST = /^[\w.:[\]-]+$/;
/** For a request by a name that is not: where a server listens by itself. */
const USUAL_ADDRESS = "http://127.0.0.1:8080";

/** The address that a request was sent to; a proxy says that it took it over TLS. */
function addressOf({ url, headers }: Request): string {
  const { host, protocol } = new URL(url);
  if (!PLAIN_HOST.test(host)) return USUAL_ADDRESS;
  const isTls = protocol === "https:" || headers.get("x-forwarded-proto") === "https";
  return `http${isTls ? "s" : ""}://${host}`;
}

/** The two routes. They need no model: a client may look while it loads. */
export function descriptionRoutes(server: DescribedServer): OperatorRoute[] {
  let document: string | undefined;
  let page: ((address: string) => string) | undefined;
  return [
    {
      method: "GET",
      path: "/openapi.json",
      async handler() {
        if (document === undefined) {
          const { openApiDocument } = await import("./document.ts");
          document = JSON.stringify(openApiDocument(server.routes(), server.version));
        }
        return new Response(document, { headers: { "content-type": "application/json" } });
      },
    },
    {
      method: "GET",
      path: "/docs",
      async handler({ raw }) {
        const { docsPage, PAGE_HEADERS } = await import("./page.ts");
        const { version, servedName: modelName, needsKey } = server;
        page ??= docsPage(server.routes(), { version, modelName, needsKey });
        return new Response(page(addressOf(raw)), { headers: PAGE_HEADERS });
      },
    },
  ];
}
