/** `tokenize`: text to token ids, or ids to text. @module */
import { defineCommand } from "../command.ts";
import { switchFlag, valueFlag } from "../flags.ts";
import { checkVocabulary, exactlyOne, needTokenizer, readIds, readTextFile } from "../inputs.ts";
import { EXIT } from "../io.ts";
import { modelFlag, modelPath } from "../model_flags.ts";
import { type OpenTextSide, openTextSide } from "../text_side.ts";
import { anyText, text } from "../values.ts";

/** The command, over a way to open the text side of a model. */
export function tokenizeCommand(open: OpenTextSide) {
  return defineCommand({
    name: "tokenize",
    summary: "turns text into token ids, or ids into text",
    usage: ["tokenize (--text TEXT | --text-file FILE | --ids X) [flags]"],
    notes: [
      "Special tokens written in --text count as such; in a text file they are plain text. A BOS " +
      "token comes first where the model file asks for it, unless --no-bos is given.",
      "With --json: ids and pieces (the text of each token) for text, text for ids.",
    ],
    flags: {
      text: valueFlag({
        group: "Input",
        help: "text to turn into ids",
        placeholder: "TEXT",
        short: "t",
        schema: anyText,
        fallback: null,
      }),
      textFile: valueFlag({
        group: "Input",
        help: "a UTF-8 file with the text; - is standard input",
        placeholder: "FILE",
        short: "f",
        schema: text,
        fallback: null,
      }),
      ids: valueFlag({
        group: "Input",
        help: "ids to turn into text: a JSON array, or a file that holds one",
        placeholder: "X",
        schema: text,
        fallback: null,
      }),
      bos: {
        ...switchFlag({ group: "Input", help: "puts BOS first where the model file asks for it" }),
        fallback: true,
      },
      json: switchFlag({ group: "Output", help: "prints one line of JSON" }),
      ...modelFlag,
    },
    async run(settings, io) {
      const source = exactlyOne({
        "--text": settings.text,
        "--text-file": settings.textFile,
        "--ids": settings.ids,
      });
      const given = source === "--ids"
        ? readIds(settings.ids ?? "")
        : source === "--text"
        ? settings.text ?? ""
        : readTextFile(settings.textFile ?? "", "--text-file");
      const { tokenizer: found } = await open(modelPath(settings), "text");
      const tokenizer = needTokenizer(found);
      if (typeof given !== "string") {
        checkVocabulary(given, tokenizer.vocabSize);
        const decoded = tokenizer.decode(given);
        io.stdout(settings.json ? `${JSON.stringify({ text: decoded })}\n` : `${decoded}\n`);
        return EXIT.ok;
      }
      const ids = tokenizer.encode(given, {
        parseSpecial: source === "--text",
        addBos: settings.bos,
      });
      const pieces = ids.map((id) => tokenizer.decode([id]));
      if (settings.json) io.stdout(`${JSON.stringify({ ids, pieces })}\n`);
      else {
        for (const [index, id] of ids.entries()) {
          io.stdout(`${id}\t${JSON.stringify(pieces[index])}\n`);
        }
      }
      return EXIT.ok;
    },
  });
}

export const command = tokenizeCommand(openTextSide);
