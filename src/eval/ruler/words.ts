/** Words that RULER tasks are made of. @module */
import type { Draws } from "../../train/draws.ts";

/** Adjectives and nouns for keys of needles: every pair is a key. */
const ADJECTIVES = (
  "amber ancient bashful bitter blazing brave brisk calm careless clever cosmic crooked curious " +
  "dapper distant dusty eager early elegant faded fearless fluffy foggy frozen gentle giddy glad " +
  "golden grumpy hasty hidden hollow humble icy idle jolly keen lanky lazy lively lonely loud lucky " +
  "mellow mighty misty modest muddy narrow nimble noble odd pale patient plain polite proud puzzled " +
  "quaint quick quiet rapid restless rusty salty scarlet secret shaggy sharp shiny silent silver " +
  "simple sleepy slender smoky solemn spare steady stormy stubborn sturdy sunny tame tender thirsty " +
  "timid tiny tough velvet violet vivid weary wild windy wise witty young zealous"
).split(" ");
const NOUNS = (
  "acorn anchor apron arrow badger barrel basket beacon beetle bell blanket bottle bridge broom " +
  "bucket button cabin camel candle canyon carpet castle cedar cellar chimney circle cliff cloud " +
  "compass copper corner cricket crown dagger desert dolphin donkey dragon drum eagle engine falcon " +
  "feather fence ferry fiddle forest fountain garden glacier goblet guitar hammer harbor hedge heron " +
  "island jacket jungle kettle kitten ladder lantern lemon lizard locket magnet mantle maple marble " +
  "market meadow mirror monkey mountain needle oak orchard otter oyster paddle palace parrot pebble " +
  "pepper piano pillow pirate planet pocket pony puppet quill rabbit raven ribbon river rocket saddle " +
  "sailor scarf shadow shell shovel spider sponge statue stone sword table temple thimble thunder " +
  "ticket tiger torch tower tractor trumpet tunnel turtle umbrella valley violin wagon walnut whale " +
  "window wizard wolf"
).split(" ");

/** Words that stand alone: those of the common-words task. */
export const PLAIN_WORDS: readonly string[] = [...new Set([...NOUNS, ...ADJECTIVES])];

/** Different keys, an adjective and a noun each. */
export function wordKeys(draws: Draws, count: number): string[] {
  return different(count, () => {
    const adjective = ADJECTIVES[draws.below(ADJECTIVES.length)]!;
    return `${adjective}-${NOUNS[draws.below(NOUNS.length)]!}`;
  });
}

/** Different numbers of so many digits, the first of which is not 0. */
export function numbersOf(draws: Draws, count: number, digits: number): string[] {
  const least = 10 ** (digits - 1);
  return different(count, () => String(least + draws.below(9 * least)));
}

/** Different random identifiers in the form of a UUID. */
export function uuids(draws: Draws, count: number): string[] {
  const hex = (length: number) =>
    Array.from({ length }, () => draws.below(16).toString(16)).join("");
  return different(
    count,
    () => `${hex(8)}-${hex(4)}-4${hex(3)}-${"89ab"[draws.below(4)]!}${hex(3)}-${hex(12)}`,
  );
}

/** Different words of so many random letters. */
export function letters(draws: Draws, count: number, length: number, first = "a"): string[] {
  const from = first.charCodeAt(0);
  return different(
    count,
    () => String.fromCharCode(...Array.from({ length }, () => from + draws.below(26))),
  );
}

/** Draws until there are so many different ones. */
function different(count: number, draw: () => string): string[] {
  const found = new Set<string>();
  while (found.size < count) found.add(draw());
  return [...found];
}

/** An English list: a, b, and c. */
export function listed(items: readonly string[]): string {
  if (items.length < 3) return items.join(" and ");
  return `${items.slice(0, -1).join(", ")}, and ${items.at(-1)}`;
}
