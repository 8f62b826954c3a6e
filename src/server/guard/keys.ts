/** API keys. @module */
import { createHash, timingSafeEqual } from "node:crypto";

function digest(text: string): Uint8Array {
  return createHash("sha256").update(text).digest();
}

/** Letters of a scope: 128 bits are more than anybody can make meet by trying. */
const SCOPE_LENGTH = 32;

interface KnownKey {
  readonly digest: Uint8Array;
  readonly scope: string;
}

/** The keys that a server takes. None: everybody may ask. */
export class ApiKeys {
  readonly #known: readonly KnownKey[];

  /** @throws {RangeError} For an empty key. */
  constructor(keys: readonly string[]) {
    this.#known = [...new Set(keys)].map((key) => {
      if (key === "") throw new RangeError("an API key must not be empty");
      // Not the digest that is compared: a scope gets about more.
      const scope = createHash("sha256").update(`prefix scope\0${key}`).digest("hex");
      return { digest: digest(key), scope: scope.slice(0, SCOPE_LENGTH) };
    });
  }

  /** Whether a key is asked for. */
  get required(): boolean {
    return this.#known.length > 0;
  }

  /**
   * Looks a key up, in a time that does not depend on how much of it is right.
   *
   * @returns What stands for the key where its own text must not be; undefined for a wrong one.
   */
  scopeOf(key: string): string | undefined {
    const asked = digest(key);
    let found: string | undefined;
    for (const { digest, scope } of this.#known) {
      if (timingSafeEqual(asked, digest)) found = scope;
    }
    return found;
  }
}

/** Keys that a request names: `Authorization: Bearer KEY`, or `x-api-key` as Anthropic has it. */
export function keysOf(headers: Headers): string[] {
  const bearer = headers.get("authorization")?.match(/^Bearer +(\S+) *$/i)?.[1];
  const plain = headers.get("x-api-key");
  return [bearer, plain].filter((key): key is string => typeof key === "string" && key !== "");
}
