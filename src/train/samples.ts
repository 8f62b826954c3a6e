/** Which windows of the texts, and which of their rows, a training sees. @module */
import { cutWindows } from "../butler/calibration/windows.ts";
import type { CaptureWindow } from "./capture.ts";
import { Draws } from "./draws.ts";
import { TrainError } from "./errors.ts";
import type { TrainSettings } from "./settings.ts";

/** Part of each text, at its end, that is only measured on. */
export const HELD_OUT_SHARE = 0.1;
/** Rows before this many candidates are not learnt: there is nothing to choose. */
const LEAST_CANDIDATES = 64;

/** Windows of both kinds. */
export interface Samples {
  readonly train: readonly CaptureWindow[];
  readonly heldOut: readonly CaptureWindow[];
}

/** Splits a text where a word begins: what is trained on, and what is measured on. */
export function splitText(text: string): { readonly train: string; readonly heldOut: string } {
  const about = Math.floor(text.length * (1 - HELD_OUT_SHARE));
  const blank = text.slice(about).search(/\s/);
  const cut = blank < 0 ? about : about + blank;
  return { train: text.slice(0, cut), heldOut: text.slice(cut) };
}

/**
 * Takes windows from texts, evenly spaced, and rows from windows.
 *
 * @param encode Ids of a text, without BOS.
 * @param prefix Ids before each window, counted in its length.
 * @throws {TrainError} `no_text` if not even one window of each kind is there.
 */
export function takeSamples(
  texts: readonly string[],
  encode: (text: string) => readonly number[],
  prefix: readonly number[],
  settings: TrainSettings,
): Samples {
  const { windows, tokens, heldOut, heldOutTokens } = settings;
  const parts = texts.map(splitText);
  const cut = (which: "train" | "heldOut", count: number, length: number) => {
    const options = { tokens: count * length, context: length };
    const found = cutWindows(parts.map((part) => part[which]), encode, prefix, options)
      .filter((ids) => ids.length === length).slice(0, count);
    if (found.length > 0) return found;
    throw new TrainError(
      "no_text",
      `the text is too short: ${which === "train" ? "training" : "measuring"} needs a window of ` +
        `${length} tokens${
          which === "train" ? "" : " in its last tenth"
        }. Give more with --text, ` +
        "or shorter windows with --tokens and --held-out-tokens",
    );
  };
  const first = Math.min(settings.sinks + settings.window + LEAST_CANDIDATES, tokens / 2);
  return {
    train: cut("train", windows, tokens).map((ids, index) => ({
      ids,
      positions: new Draws(settings.seed, 1 + index).spread(first, tokens, settings.rows),
    })),
    heldOut: cut("heldOut", heldOut, heldOutTokens).map((ids) => ({
      ids,
      positions: new Draws(settings.seed, 0)
        .spread(heldOutTokens / 2, heldOutTokens, settings.heldOutRows),
    })),
  };
}
