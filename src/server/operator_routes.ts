/** Routes for those who run the server: `/metrics`, `/slots`. @module */
import type { Engine } from "../engine/types.ts";
import type { Metrics } from "../observe/metrics/mod.ts";
import { METRICS_TYPE } from "../observe/metrics/types.ts";
import type { BodyLimits } from "./body.ts";
import type { ServedModel } from "./served_model.ts";
import { slotRoutes } from "./slot_routes.ts";

/** What there is for operators; what is absent has no route. */
export interface OperatorOptions {
  readonly metrics?: Metrics;
  /** Whether there is `/slots`. */
  readonly slots?: boolean;
  /** Whether conversations of slots can be saved: there is a folder for them. */
  readonly slotFiles?: boolean;
}

/** What the routes are told by the app. */
export interface Operated {
  /** Null while there is none that answers. */
  engine(): Engine | null;
  /** @throws {RequestError} 503 while there is none. */
  model(): ServedModel;
  readonly bodyLimits: BodyLimits;
}

/** What a route gets to know of its request. */
export interface OperatorRequest {
  readonly raw: Request;
  param(name: string): string | undefined;
  query(name: string): string | undefined;
}

/** A route, for the app's table. */
export interface OperatorRoute {
  readonly method: "GET" | "POST";
  readonly path: string;
  /** Part of it is 501, because the server was started without what that needs. */
  readonly isPartial?: boolean;
  handler(request: OperatorRequest): Response | Promise<Response>;
}

/** The routes that the options ask for. */
export function operatorRoutes(options: OperatorOptions, operated: Operated): OperatorRoute[] {
  const { metrics } = options;
  const routes: OperatorRoute[] = [];
  if (metrics !== undefined) {
    routes.push({
      method: "GET",
      path: "/metrics",
      // Also while the model loads, and after a lost device: that is when it is looked at.
      async handler() {
        const page = await metrics.page(operated.engine());
        return new Response(page, { headers: { "content-type": METRICS_TYPE } });
      },
    });
  }
  if (options.slots) routes.push(...slotRoutes(operated, options.slotFiles ?? false));
  return routes;
}
