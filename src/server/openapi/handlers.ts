/** `GET /openapi.json` and `GET /docs`, made at the first request. @module */
import type { OperatorRoute } from "../operator_routes.ts";
import type { ServedRoute } from "./document.ts";

/** What the two describe. */
export interface DescribedServer {
  /** All routes, these two included. */
  routes(): readonly ServedRoute[];
  readonly version: string;
  readonly servedName: string;
}

/** The two routes. They need no model: a client may look while it loads. */
export function descriptionRoutes(server: DescribedServer): OperatorRoute[] {
  let document: string | undefined;
  let page: string | undefined;
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
      async handler() {
        const { docsPage, PAGE_HEADERS } = await import("./page.ts");
        page ??= docsPage(server.routes(), server.version, server.servedName);
        return new Response(page, { headers: PAGE_HEADERS });
      },
    },
  ];
}
