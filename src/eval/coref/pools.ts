/** What stories of the co-reference task are made of. In our own words. @module */

/** Names of places, most of them made up, of a few tokens each. */
export const PLACES: readonly string[] = [
  "Varrowmere",
  "Port Elsinby",
  "Dunhallow",
  "Quillford",
  "Mossgarth",
  "Upper Tannock",
  "Breckenshaw",
  "Silverholm",
  "Castle Orrin",
  "Thistlebay",
  "Ravenmoor",
  "Little Hexley",
  "Ambersted",
  "Kelpie Sound",
  "Norrisgate",
  "Fenwick Hollow",
  "Ostrel Hill",
  "Lindenmark",
  "Grey Harbour",
  "Sandervale",
  "Winterbourne Pass",
  "Corrigan Falls",
  "Melworth",
  "Bellhaven",
  "Oakenstead",
  "Tarnbridge",
  "Saint Ivara",
  "Hollin Cross",
  "Marrowdale",
  "Eastwater",
  "Pellingham",
  "Stormgard",
  "Juniper Flats",
  "Cobbler's End",
  "Wexcombe",
  "Aldermoor",
  "Redwater Bend",
  "Highfallow",
  "Bramblewick",
  "Calder's Rest",
  "Frostholme",
  "Golden Strand",
  "Ironvale",
  "Larkspur Green",
  "Nettleton",
  "Otterburn Quay",
  "Pinehurst Gap",
  "Rookhampton",
  "Swanbrook",
  "Tollerby",
  "Umberleigh",
  "Vale Marston",
  "Whitlock Point",
  "Yarrowdale",
  "Zephyr Cove",
  "Ashgrove Landing",
  "Birchmere",
  "Copper Lantern",
  "Drywell",
  "Emberton",
];

/** A beginning that leads to the name of a place, and a question that leads back to it. */
export interface Frame {
  /** Ends where the name follows. */
  readonly intro: string;
  /** Ends where the name follows. */
  readonly question: string;
}

/** Beginnings with their questions. */
export const FRAMES: readonly Frame[] = [
  {
    intro:
      "The ferry came in before sunrise, and the children ran down to the pier to see who had " +
      "come. Nobody stepped ashore but an old clockmaker with two suitcases. He asked a boy where " +
      "he was, and the boy said that this was the town of",
    question:
      "After all this we come back to the clockmaker with his two suitcases. The boy on the " +
      "pier had told him that this was the town of",
  },
  {
    intro:
      "My aunt kept a map over her kitchen table, and one place on it had a red circle. She had " +
      "gone there once, for a single winter, and never told us why she left. The name inside the " +
      "circle was",
    question: "Let us look at the map over the kitchen table once more. The name inside the red " +
      "circle was",
  },
  {
    intro:
      "The train stopped where no stop was planned. Snow lay on the rails, and the guard said " +
      "that we would all have to spend the night in the nearest village. A wooden sign by the road " +
      "said that it was called",
    question:
      "Remember the train that was held up by snow. The village in which the passengers had " +
      "to spend the night was called",
  },
  {
    intro: "A letter was found behind the wall of the bakery, a hundred years after it had been " +
      "written. The ink was pale, but one could still read who it was meant for: a baker's widow in",
    question:
      "Now for the letter that was found behind the wall. It had been meant for a baker's " +
      "widow in",
  },
  {
    intro: "Every summer the orchestra travels to one small place in the hills and plays in its " +
      "square for nothing. The players say that nobody listens as well as the shepherds there. The " +
      "place where they play is",
    question:
      "One thing is left to say about the orchestra and its shepherds. The place where it " +
      "plays every summer is",
  },
  {
    intro: "When the survey was done, the engineers agreed on where the bridge should stand. The " +
      "river was narrow there, the ground was firm, and the people were glad of the work. So the " +
      "bridge was built at",
    question:
      "To end with the engineers and their survey: the river was narrow and the ground was " +
      "firm, so the bridge was built at",
  },
  {
    intro:
      "The pilot had one hour of fuel left and fog on all sides. Then a light showed below, and " +
      "another, and she knew the shape of that bay. She told her passengers that they would land at",
    question:
      "What became of the pilot and her last hour of fuel? She had told her passengers that " +
      "they would land at",
  },
  {
    intro:
      "Grandfather always told the same story: how he won a horse at cards and lost it again " +
      "before morning, and had to walk the whole way home. That happened, he said, at the fair of",
    question: "Think again of grandfather and the horse that he won and lost in one night. That " +
      "happened at the fair of",
  },
  {
    intro: "The museum owns only one painting by her. It shows a yellow house, a well and three " +
      "geese, and on the back she wrote in pencil where she had painted it. The pencil says",
    question:
      "The painting with the yellow house and the three geese has a word on its back. The " +
      "pencil says",
  },
  {
    intro:
      "Two doctors set out with a single mule and all the medicine that it could carry. They " +
      "had been told that the fever was worst beyond the second ridge, and that they should ask for " +
      "the way to",
    question:
      "The two doctors and their mule had been given advice. Beyond the second ridge they " +
      "should ask for the way to",
  },
  {
    intro:
      "Our class wrote letters to a school that we had picked from a list with our eyes shut. " +
      "For weeks nothing came. Then there was a parcel with thirty answers in it, and the stamp was " +
      "from",
    question: "And the school that the class had picked with eyes shut? The parcel with thirty " +
      "answers had a stamp from",
  },
  {
    intro:
      "The oldest oak of the country has a fence of its own and a book in which its visitors " +
      "sign. It was already old when the first road was laid past it. It stands on the common of",
    question:
      "The oldest oak, with its fence and its book, can still be visited. It stands on the " +
      "common of",
  },
  {
    intro:
      "They divided the inheritance by drawing straws. The eldest got the mill, the second got " +
      "the boats, and the youngest, who had hoped for neither, got a house that none of them had " +
      "seen. It was in",
    question:
      "The youngest, who had hoped for neither mill nor boats, got the house that none of " +
      "them had seen. It was in",
  },
  {
    intro:
      "The radio play was about a lighthouse keeper who answers the telephone of a stranger. " +
      "All the calls are for a woman who has moved away, and each caller asks when she will come " +
      "back to",
    question:
      "In the radio play the callers all ask the lighthouse keeper the same. They want to " +
      "know when she will come back to",
  },
];

/** Thoughts that have nothing to do with the story. */
export const THOUGHTS: readonly string[] = [
  "Some people hold that a promise is only as strong as the memory of the one who gave it. Others " +
  "answer that a promise changes the world at the moment it is spoken, whether anybody remembers it " +
  "or not. Perhaps both are right: words do bind, but it takes a person to feel the cord.",
  "It is hard to say what a habit is. It begins as a choice, is repeated until nobody chooses any " +
  "more, and in the end it looks like character. If that is so, then who we are today was decided " +
  "on many forgotten afternoons, by small decisions that seemed to matter to nobody.",
  "A question can be older than all its answers. When we ask what justice is, we stand in a long " +
  "row, and those before us were no less clever than we are. The row does not get shorter when " +
  "somebody speaks, but now and then it moves a step to the side and sees something new.",
  "Doubt has a bad name, yet nothing was ever learnt without it. Whoever is certain has stopped " +
  "looking. The art is to doubt one thing at a time, as one lifts one foot at a time, and to let the " +
  "other stand firmly on the ground for as long as it has to.",
  "We say that time flows, but a river flows past its banks, and it is not clear what time should " +
  "flow past. Maybe it is we who move and call the wind in our faces time. Or nothing moves at all, " +
  "and every moment stays where it is like a page in a closed book.",
  "There is a courage that nobody sees: to say that one was wrong when all the others have already " +
  "forgotten it. No one would have asked. That may be why it is worth more than the loud kind, which " +
  "always has an audience and is paid in the same hour.",
  "If a ship has every plank replaced, one after the other, it is an old riddle whether it is still " +
  "the same ship. The sailors never had any trouble with that. For them the ship is what carries " +
  "them home, and it did so yesterday and will do so tomorrow.",
];

/** Food. */
export const FOODS: readonly string[] = [
  "For the soup, onions are browned slowly in butter until they are as dark as honey. A spoon of " +
  "flour is stirred in, then broth, a bay leaf and a little vinegar. It has to simmer for half an " +
  "hour at least, and it is served with toasted rye bread and a good handful of grated cheese.",
  "A proper plum cake needs ripe fruit that is almost too soft to cut. The dough is thin and made " +
  "with yeast, the plums stand on it in rows like tiles, and sugar and cinnamon come on top only " +
  "after baking. Warm from the oven it is best with unsweetened cream.",
  "The dumplings are filled with mushrooms, parsley and a little cabbage, closed with wet fingers " +
  "and boiled in salted water until they swim. Some like them fried on the next day. Then they get a " +
  "brown crust, and one needs nothing more than pickled cucumber beside them.",
  "To roast chestnuts, cut a cross into each of them and leave them in cold water for a while. They " +
  "go into a heavy pan with a lid and are shaken again and again over the fire. When the cross opens " +
  "like a flower they are done, and have to be peeled while they still burn the fingers.",
  "The stew of white beans cooks overnight in a clay pot. There is garlic in it, a piece of smoked " +
  "ham, thyme and one single clove that has to be found and taken out before the meal. Whoever bites " +
  "on it, they say, must do the dishes for the rest of the week.",
  "Good lemonade is not sour and not sweet but both at the same time. Rub the peel with sugar before " +
  "pressing the fruit, so that the oil is not lost. Then add cold water, a few leaves of mint, and " +
  "patience: after an hour in the shade it tastes twice as good.",
  "The bread of the valley is baked once a month and gets so hard that it is cut with a hinged knife. " +
  "Dipped into milk it becomes soft again and tastes of fennel and smoke. Children are given the " +
  "crusts when their teeth begin to come.",
];

/** Sums. */
export const SUMS: readonly string[] = [
  "A gardener plants tulips in 12 rows of 15 bulbs each. A quarter of the bulbs are eaten by mice in " +
  "winter. To find how many tulips can bloom, multiply 12 by 15, which gives 180, and take away a " +
  "quarter of that, which is 45. So 135 tulips are left to bloom in spring.",
  "A tank holds 600 litres and is filled by two pipes. The first gives 20 litres a minute, the second " +
  "10. Together they give 30 litres a minute, so the tank is full after 600 divided by 30, that is " +
  "20 minutes. With the first pipe alone it would have taken 30 minutes.",
  "Three friends share a bill of 84 coins. The first pays half of it, the second pays a third of what " +
  "is left, and the third pays the rest. Half of 84 is 42. A third of the other 42 is 14, and so the " +
  "third friend has to pay 28 coins.",
  "A cyclist rides 18 kilometres in the first hour, 16 in the second and 14 in the third, because the " +
  "wind gets stronger. In all that makes 48 kilometres in 3 hours. The mean speed of the whole trip " +
  "is therefore 16 kilometres an hour, the same as in the second hour.",
  "A box contains 9 red, 6 blue and 5 green marbles. One marble is drawn without looking. There are " +
  "20 marbles, so the chance of a blue one is 6 in 20, or 3 in 10. If a red one is drawn first and " +
  "kept, the chance of a blue one rises to 6 in 19.",
  "The sides of a rectangle are 7 and 24 metres long, and a path is to lead from one corner to the " +
  "opposite one. Seven times seven is 49, 24 times 24 is 576, and the sum is 625. The root of 625 is " +
  "25, so the path is 25 metres long.",
  "A printer makes 40 pages a minute and pauses for 1 minute after every 200 pages. Two hundred pages " +
  "take 5 minutes, with the pause 6. A thousand pages need five such rounds, and since the last pause " +
  "does not count, they are ready after 29 minutes.",
];
