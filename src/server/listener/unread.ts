/** Clients that take nothing of what was written for them. Pure but for the clock it is given. @module */

/** What is looked at of a socket. */
export interface WrittenSocket {
  /** Bytes that wait to be taken. */
  readonly writableLength: number;
  /** Bytes that were ever written, those that wait included. */
  readonly bytesWritten: number;
  destroy(): void;
}

interface Seen {
  readonly waiting: number;
  readonly written: number;
  readonly sinceMs: number;
}

/**
 * Closes sockets whose clients take nothing for too long. Their answers were given up before, or are
 * complete; what is left is memory, and a place among the connections.
 */
export class UnreadSockets {
  readonly #seen = new Map<WrittenSocket, Seen>();

  /** @param mostMs Milliseconds in which something has to be taken. */
  constructor(private readonly mostMs: number) {}

  add(socket: WrittenSocket): void {
    this.#seen.set(socket, { waiting: 0, written: 0, sinceMs: 0 });
  }

  remove(socket: WrittenSocket): void {
    this.#seen.delete(socket);
  }

  /** Looks at all of them; often, as nobody tells when something was taken. */
  look(nowMs: number): void {
    for (const [socket, seen] of this.#seen) {
      const { writableLength: waiting, bytesWritten: written } = socket;
      if (waiting === 0 || waiting !== seen.waiting || written !== seen.written) {
        this.#seen.set(socket, { waiting, written, sinceMs: nowMs });
      } else if (nowMs - seen.sinceMs >= this.mostMs) socket.destroy();
    }
  }
}
