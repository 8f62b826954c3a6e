/**
 * Which names a server answers to, and which web pages may talk to it. A page that someone visits
 * can reach what listens on the loopback: by a name that is made to point there (DNS rebinding), or
 * by a request whose answer it cannot read but whose work is done.
 *
 * @module
 */

const IPV4 = /^\d{1,3}(\.\d{1,3}){3}$/;

/** Name or address of a `Host` header, without port and in lower case; empty where it is none. */
export function hostName(header: string): string {
  const [, bracketed, plain] =
    header.match(/^(?:\[([0-9a-f:.]+)\]|([^\s[\]:/@]+))(?::\d{1,5})?$/i) ??
      [];
  return (bracketed ?? plain ?? "").toLowerCase().replace(/\.$/, "");
}

function isAddress(name: string): boolean {
  return IPV4.test(name) || name.includes(":");
}

function isLocalName(name: string): boolean {
  return name === "localhost" || name.endsWith(".localhost");
}

/** Whether a name or address, as `--host` has it, can be reached from this machine only. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase().replace(/^\[(.*)\]$/, "$1");
  return isLocalName(name) || name === "::1" || (IPV4.test(name) && name.startsWith("127.")) ||
    name.startsWith("::ffff:127.");
}

/**
 * Whether a `Host` header may be answered. Nobody can make an address point elsewhere, nor
 * `localhost`; other names have to be listed.
 */
export function isAllowedHost(header: string, allowed: readonly string[]): boolean {
  const name = hostName(header);
  if (name === "") return false;
  return isAddress(name) || isLocalName(name) || allowed.includes(name);
}

/** Stands for all origins in a list of them. */
export const ANY_ORIGIN = "*";
/** Stands for all pages that this machine serves to itself. */
export const LOCAL_ORIGINS = "localhost";

/** Whether an entry of the list is one: an origin, `*` or `localhost`. */
export function isOriginEntry(entry: string): boolean {
  if (entry === ANY_ORIGIN || entry === LOCAL_ORIGINS) return true;
  return URL.canParse(entry) && new URL(entry).origin === entry;
}

/** Whether the list lets pages of an origin read answers. */
export function isListedOrigin(origin: string, list: readonly string[]): boolean {
  if (list.includes(ANY_ORIGIN) || list.includes(origin)) return true;
  return list.includes(LOCAL_ORIGINS) && URL.canParse(origin) &&
    isLoopback(new URL(origin).hostname);
}

/** Whether a page comes from the very server that it talks to. */
export function isSameOrigin(origin: string, hostHeader: string): boolean {
  // The scheme is not compared: a proxy that speaks TLS leaves `http` here and `https` there.
  return URL.canParse(origin) && new URL(origin).host === hostHeader.toLowerCase();
}
