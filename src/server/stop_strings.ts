/** Finds stop strings in text that comes in pieces. @module */

/**
 * Passes text on until a stop string is complete. What could still become a stop string is held
 * back, so that no part of one is ever passed on, however the pieces were cut.
 */
export class StopStrings {
  #held = "";

  /** True once a stop string was found; nothing more is passed on then. */
  stopped = false;

  constructor(private readonly stops: readonly string[]) {}

  /** Takes the next piece; gives the text that is certain to come before any stop string. */
  push(piece: string): string {
    if (this.stopped || piece === "") return "";
    const text = this.#held + piece;
    const cut = this.#find(text);
    if (cut !== undefined) {
      this.stopped = true;
      this.#held = "";
      return text.slice(0, cut);
    }
    const keep = this.#longestBeginning(text);
    this.#held = text.slice(text.length - keep);
    return text.slice(0, text.length - keep);
  }

  /** Ends the text: what was held back is no stop string after all. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  /**
   * Start of the stop string that is complete first; of several that end together, the longest.
   * That is what feeding single characters would find, so the cut of the pieces does not matter.
   */
  #find(text: string): number | undefined {
    let best: { start: number; end: number } | undefined;
    for (const stop of this.stops) {
      const start = text.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      if (
        best === undefined || end < best.end || (end === best.end && start < best.start)
      ) best = { start, end };
    }
    return best?.start;
  }

  /** Length of the longest end of the text with which a stop string begins. */
  #longestBeginning(text: string): number {
    let longest = 0;
    for (const stop of this.stops) {
      for (let size = Math.min(stop.length - 1, text.length); size > longest; size--) {
        if (stop.startsWith(text.slice(text.length - size))) longest = size;
      }
    }
    return longest;
  }
}
