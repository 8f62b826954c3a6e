/** Results of an evaluation on disk: what is there already is not measured again. @module */
import { z } from "zod";
import { CommandError } from "../cli/command.ts";

/** What figures rest on: device, model, files, settings, seed, commit. */
export type Origin = Readonly<Record<string, string | number | null>>;

const fileSchema = z.object({
  origin: z.record(z.string(), z.union([z.string(), z.number(), z.null()])),
  figures: z.array(z.record(z.string(), z.unknown())),
});

/** A file of figures; null keeps them in memory alone. */
export class Results<Figure extends object> {
  readonly figures: Figure[] = [];

  /**
   * @param path A file; one that is there has to be of the same evaluation.
   * @throws {CommandError} If it is not, or cannot be read.
   */
  constructor(readonly path: string | null, readonly origin: Origin) {
    if (path === null) return;
    let text: string;
    try {
      text = Deno.readTextFileSync(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return;
      const why = error instanceof Error ? error.message : String(error);
      throw new CommandError(`--out: cannot read ${path}: ${why}`);
    }
    const found = parse(path, text);
    const differs = Object.keys({ ...origin, ...found.origin })
      .find((key) => key !== "commit" && found.origin[key] !== origin[key]);
    if (differs !== undefined) {
      throw new CommandError(
        `--out: ${path} is of another evaluation (${differs} is ` +
          `${JSON.stringify(found.origin[differs])}, not ${JSON.stringify(origin[differs])}): ` +
          "name another file",
      );
    }
    this.figures = found.figures as Figure[];
  }

  /** Adds a figure and writes them all. */
  add(figure: Figure): void {
    this.figures.push(figure);
    this.save();
  }

  /** @throws {CommandError} If the file cannot be written. */
  save(): void {
    if (this.path === null) return;
    const text = `${JSON.stringify({ origin: this.origin, figures: this.figures }, null, 1)}\n`;
    try {
      Deno.writeTextFileSync(`${this.path}.part`, text);
      Deno.renameSync(`${this.path}.part`, this.path);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new CommandError(`--out: cannot write ${this.path}: ${why}`);
    }
  }
}

function parse(path: string, text: string) {
  try {
    return fileSchema.parse(JSON.parse(text));
  } catch {
    throw new CommandError(`--out: ${path} holds no results: name another file`);
  }
}
