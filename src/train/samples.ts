/** Which windows of the texts, and which of their rows, a training sees. @module */
import { cutWindows } from "../butler/calibration/windows.ts";
import type { CaptureWindow } from "./capture.ts";
import { Draws } from "./draws.ts";
import { TrainError } from "./errors.ts";
import type { TrainSettings } from "./settings.ts";

/** Part of each text that is only measured on, and part after it, at the end, that is not used. */
const MEASURED_SHARE = 0.05;
const UNSEEN_SHARE = 0.05;
/** Rows before this many candidates are not learnt: there is nothing to choose. */
const LEAST_CANDIDATES = 64;

/** Windows of each kind. */
export interface Samples {
  readonly train: readonly CaptureWindow[];
  /** That recall is measured on. */
  readonly heldOut: readonly CaptureWindow[];
  /** That large budgets are measured on, of the same text; the very same list where the sizes are equal. */
  readonly table: readonly CaptureWindow[];
}

/**
 * Splits a text where words begin: what is trained on; what is measured on, which decides on budgets;
 * what training never sees.
 */
export function splitText(
  text: string,
): { readonly train: string; readonly heldOut: string; readonly unseen: string } {
  const cutAt = (share: number) => {
    const about = Math.floor(text.length * share);
    const blank = text.slice(about).search(/\s/);
    return blank < 0 ? about : about + blank;
  };
  const first = cutAt(1 - MEASURED_SHARE - UNSEEN_SHARE);
  const second = cutAt(1 - UNSEEN_SHARE);
  return {
    train: text.slice(0, first),
    heldOut: text.slice(first, second),
    unseen: text.slice(second),
  };
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
  const { windows, tokens, heldOut, heldOutTokens, tableTokens } = settings;
  const parts = texts.map(splitText);
  const cut = (which: "train" | "heldOut", count: number, length: number) => {
    const options = { tokens: count * length, context: length };
    const found = cutWindows(parts.map((part) => part[which]), encode, prefix, options)
      .filter((ids) => ids.length === length).slice(0, count);
    if (found.length > 0) return found;
    throw new TrainError(
      "no_text",
      `the text is too short: ${which === "train" ? "training" : "measuring"} needs a window of ` +
        `${length} tokens${which === "train" ? "" : " near its end"}. Give more with --text, ` +
        "or shorter windows with --tokens, --held-out-tokens and --table-tokens",
    );
  };
  const first = Math.min(settings.sinks + settings.window + LEAST_CANDIDATES, tokens / 2);
  const measured = (length: number) =>
    cut("heldOut", heldOut, length).map((ids) => ({
      ids,
      positions: new Draws(settings.seed, 0).spread(length / 2, length, settings.heldOutRows),
    }));
  const toMeasure = measured(heldOutTokens);
  return {
    train: cut("train", windows, tokens).map((ids, index) => ({
      ids,
      positions: new Draws(settings.seed, 1 + index).spread(first, tokens, settings.rows),
    })),
    heldOut: toMeasure,
    table: tableTokens === heldOutTokens ? toMeasure : measured(tableTokens),
  };
}
