/** Why somebody may not ask. @module */
import { RequestError } from "../errors.ts";

/** 401: no key, or one that is not known. */
export function wrongKey(given: boolean): RequestError {
  const message = given
    ? "The API key is not valid."
    : "This server needs an API key: send it as `Authorization: Bearer KEY`.";
  return new RequestError(401, "authentication_error", message, {
    code: "invalid_api_key",
    headers: { "www-authenticate": "Bearer", "x-should-retry": "false" },
  });
}

/** 403: the name in `Host` is not this server's. */
export function hostNotAllowed(): RequestError {
  return new RequestError(
    403,
    "permission_error",
    "The Host header names a server that this one is not. Start it with --allowed-host NAME to " +
      "have it answer to a name.",
    { code: "host_not_allowed" },
  );
}

/** 403: a web page from elsewhere. */
export function originNotAllowed(): RequestError {
  return new RequestError(
    403,
    "permission_error",
    "Web pages of this origin may not use this server. Start it with --cors-origin ORIGIN to let " +
      "them.",
    { code: "origin_not_allowed" },
  );
}
