/** What the co-reference task is put together from. Written for it; every name is made up. @module */

/** A way to bring up a place and, much later, to ask for it again. */
export interface Place {
  /** Ends where the name follows. */
  readonly intro: string;
  /** Ends where the same name is the answer. */
  readonly question: string;
}

/** Beginnings and endings that belong together. */
export const PLACES: readonly Place[] = [
  {
    intro:
      "My grandmother spent every summer of her childhood by the sea, in a small harbour town called",
    question: "The harbour town where my grandmother spent her childhood summers was called",
  },
  {
    intro:
      "The expedition set out in early spring from the last village before the mountains, which is named",
    question: "The village from which the expedition set out is named",
  },
  {
    intro:
      "After the factory closed, most of the families moved along the river to a new settlement known as",
    question: "The settlement along the river to which most of the families moved is known as",
  },
  {
    intro: "The old map shows a single market town between the two forests, and its name is",
    question: "The name of the market town between the two forests on the old map is",
  },
  {
    intro: "Our train broke down in the middle of the night at a station that the sign called",
    question: "The station where our train broke down that night was called",
  },
  {
    intro: "The painter bought a house with a blue door in a quiet valley, near the hamlet of",
    question: "The painter's house with the blue door stood near the hamlet of",
  },
  {
    intro: "The first lighthouse on that coast was built on a rock in front of the town of",
    question: "The rock with the first lighthouse lies in front of the town of",
  },
  {
    intro:
      "Every autumn the shepherds drive their flocks down from the high pastures to the town of",
    question: "The town to which the shepherds drive their flocks every autumn is the town of",
  },
  {
    intro: "The letter had been posted, as the faded stamp still showed, in the city of",
    question: "The city in which the letter with the faded stamp had been posted is the city of",
  },
  {
    intro:
      "Two brothers founded a school for carpenters in a port on the northern island, a place called",
    question:
      "The place on the northern island where the two brothers founded their school is called",
  },
  {
    intro: "The road over the pass ends at an inn, and the village around the inn is called",
    question: "The village around the inn at the end of the road over the pass is called",
  },
  {
    intro: "The band played its first concert in front of eleven people, in a town by the name of",
    question: "The town where the band played its first concert goes by the name of",
  },
];

const BEGINNINGS = [
  "Bal",
  "Cor",
  "Dren",
  "El",
  "Fal",
  "Gren",
  "Hol",
  "Is",
  "Kel",
  "Lor",
  "Mar",
  "Nor",
  "Os",
  "Pel",
  "Quin",
  "Ros",
  "Sel",
  "Tor",
  "Ul",
  "Vel",
  "Wen",
  "Yar",
  "Zan",
];
const MIDDLES = [
  "a",
  "da",
  "der",
  "e",
  "ga",
  "i",
  "ka",
  "le",
  "mi",
  "o",
  "ra",
  "ri",
  "ta",
  "u",
  "vo",
];
const ENDINGS = [
  "burg",
  "by",
  "dale",
  "fell",
  "ford",
  "ham",
  "holm",
  "mere",
  "mouth",
  "stead",
  "ton",
  "wick",
];

/** A name of a place. @param draw Gives a whole number below its argument. */
export function placeName(draw: (count: number) => number): string {
  const pick = (from: readonly string[]) => from[draw(from.length)]!;
  return pick(BEGINNINGS) + pick(MIDDLES) + pick(ENDINGS);
}

/** What stands between the two: passages about other things. */
export const PASSAGES: readonly string[] = [
  "People who keep bees learn early that patience is worth more than skill. A hive that is opened " +
  "too often never settles, and a hive that is never opened may be lost before anyone has noticed. " +
  "Between the two there is a rhythm, different in every year, that has to be felt more than known.",
  "There is an old dispute about whether a ship whose planks have all been replaced is still the " +
  "same ship. Some say that what matters is the form, others that it is the history, and others " +
  "again that the question is about words and not about ships. None of them has ever refused to sail.",
  "To bake a plain loaf, take a pound of flour, a spoon of salt, a little yeast and as much warm " +
  "water as the flour will hold. Knead until the dough is smooth, leave it under a cloth until it has " +
  "doubled, shape it, wait once more, and bake it hot. Let it cool before you cut it, if you can.",
  "A farmer has a fox, a goose and a sack of grain, and a boat that carries himself and one of them. " +
  "Left alone, the fox takes the goose, and the goose takes the grain. He brings the goose over first, " +
  "returns, brings the fox, takes the goose back with him, leaves it, brings the grain, and fetches the " +
  "goose last of all: seven crossings, and nothing eaten.",
  "The sum of the first hundred whole numbers can be found without adding them one by one. Write them " +
  "in a row, and below them the same row backwards: every column adds up to a hundred and one, there " +
  "are a hundred columns, and each number was counted twice. Half of ten thousand one hundred is five " +
  "thousand and fifty.",
  "A good soup begins the day before. The bones are roasted until they are brown, covered with cold " +
  "water, and kept just below the boil for as long as the fire lasts, with an onion, a carrot and a few " +
  "peppercorns. What rises to the top is taken off, what sinks is left alone, and salt comes last.",
  "It has been said that we do not see things as they are but as we are. If that were wholly true we " +
  "could never be surprised, and yet we are, nearly every day. Perhaps surprise is the one door through " +
  "which things come in as they are, before we have had the time to dress them.",
  "The violin maker chose the wood by knocking on it and listening. He could not say what he heard, " +
  "only that some boards answered and some did not. His apprentices measured density and stiffness, and " +
  "wrote the numbers down; after ten years their choice agreed with his, and they had stopped measuring.",
  "If three cats catch three mice in three minutes, one might think that a hundred cats need a hundred " +
  "minutes for a hundred mice. But each cat takes three minutes for its mouse however many others are at " +
  "work, and so a hundred cats are done in three minutes too.",
  "Gardens teach that nothing is finished. The hedge that was cut in June needs cutting in August, the " +
  "path that was swept is covered again by the evening, and the pear tree that bore nothing for six years " +
  "breaks its branches in the seventh. One may call that a burden or a conversation.",
  "Dumplings are better when the filling is cold and the dough is warm. Fold the edges with wet fingers, " +
  "press them twice, and set them on a floured board without touching each other. They are done when they " +
  "have floated for as long as it takes to set the table.",
  "A clock that stands still is right twice a day, one that is a minute slow is never right at all; and " +
  "yet nobody would choose the first. What we want of a clock is not that it is right but that it is wrong " +
  "in a way that we can count on.",
  "The museum had a room for things that had been given to it by mistake: a key without a lock, a recipe " +
  "in an unknown hand, eleven left gloves, a box of photographs in which nobody looked at the camera. The " +
  "visitors stayed longer there than in front of the paintings.",
  "To find the one false coin among nine, with a pair of scales and two weighings, put three against " +
  "three. If they balance, the false one is among the last three, otherwise among the three that rose. Then " +
  "weigh one of these against another: the lighter one is false, and if neither is, the third is.",
  "Whoever has walked for a whole day in fog knows how much of a landscape is made of sounds. A stream is " +
  "a direction, a bell is a distance, and a dog is a house. When the fog lifts, the land that appears is " +
  "smaller than the one that was heard.",
  "The tea should be poured from as high as the arm allows, they told us, so that it cools on its way and " +
  "carries some air with it. The first glass is bitter like life, the second strong like love, the third " +
  "gentle like sleep; and it would be rude to leave before the third.",
];
