/** How many connections each client holds. @module */

/** Connections past the bound that still hear why, before further ones are just closed. */
const TOLD_WHY = 16;

/**
 * Connections of all clients together. A process that runs out of file descriptors never accepts a
 * connection again, and four thousand are all that some systems give it.
 */
export const MOST_TOGETHER = 2048;

/** What becomes of a new connection. `refuse`: it is told why; `close`: it is not. */
export type Verdict = "serve" | "refuse" | "close";

/** Parts of an IPv6 address that its network gave out; the rest is the client's to choose. */
const NETWORK_PARTS = 4;

/**
 * Whom an address stands for: an IPv4 address, or the network of 64 bits that one IPv6 client has
 * for itself and could take any number of addresses from.
 */
export function clientOf(address: string): string {
  const plain = address.replace(/%.*$/, "").toLowerCase();
  const mapped = plain.match(/^::ffff:(\d+\.\d+\.\d+\.\d+)$/)?.[1];
  if (mapped !== undefined) return mapped;
  if (!plain.includes(":")) return plain;
  const [head = "", tail] = plain.split("::");
  const parts = head === "" ? [] : head.split(":");
  const rest = tail === undefined || tail === "" ? [] : tail.split(":");
  if (tail !== undefined) {
    while (parts.length + rest.length < 8) parts.push("0");
  }
  return [...parts, ...rest].slice(0, NETWORK_PARTS).map((part) => part.replace(/^0+(?=.)/, ""))
    .join(":");
}

/** Counts connections by client. */
export class Connections {
  readonly #open = new Map<string, number>();
  readonly #mostTogether: number;
  #numOpen = 0;

  /**
   * @param most Connections of one client; 0 is no bound of one. That of all stays: without it,
   *   one client could end the accepting of connections for good.
   */
  constructor(private readonly most: number) {
    this.#mostTogether = Math.max(most, MOST_TOGETHER);
  }

  /** Counts a new connection, whatever becomes of it; {@linkcode remove} it when it is closed. */
  add(address: string): Verdict {
    const client = clientOf(address);
    const count = (this.#open.get(client) ?? 0) + 1;
    this.#open.set(client, count);
    if (++this.#numOpen > this.#mostTogether) return "close";
    if (this.most === 0 || count <= this.most) return "serve";
    return count <= this.most + TOLD_WHY ? "refuse" : "close";
  }

  remove(address: string): void {
    const client = clientOf(address);
    const count = (this.#open.get(client) ?? 0) - 1;
    if (count >= 0) this.#numOpen--;
    if (count > 0) this.#open.set(client, count);
    else this.#open.delete(client);
  }

  /** Connections of a client. */
  of(address: string): number {
    return this.#open.get(clientOf(address)) ?? 0;
  }
}
