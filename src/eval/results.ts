/** Results of an evaluation on disk: what is there already is not measured again. @module */
import { z } from "zod";
import { CommandError, MisfitError } from "../cli/command.ts";
import { writeWhole } from "../whole_file.ts";

/** What figures rest on: device, model, files, settings, seed, commit. */
export type Origin = Readonly<Record<string, string | number | null>>;

const fileSchema = z.object({
  origin: z.record(z.string(), z.union([z.string(), z.number(), z.null()])),
  sources: z.record(z.string(), z.string()).default({}),
  figures: z.array(z.record(z.string(), z.unknown())),
});

/** A file of figures; null keeps them in memory alone. */
export class Results<Figure extends object> {
  readonly figures: Figure[] = [];
  readonly path: string | null;
  readonly #commit: string;
  readonly #sources: Readonly<Record<string, string>>;
  #origin: Origin;

  /**
   * @param path A file; one that is there has to be of the same evaluation.
   * @param sources Digests of what was measured on, by name; the file may have more of them.
   * @throws {MisfitError} If it is not, or cannot be read.
   */
  constructor(
    path: string | null,
    origin: Origin,
    sources: Readonly<Record<string, string>> = {},
  ) {
    this.path = path;
    this.#commit = String(origin.commit);
    this.#origin = origin;
    this.#sources = sources;
    const found = path === null ? null : readFile(path);
    if (found === null) return;
    const differs = Object.keys({ ...origin, ...found.origin })
      .find((key) => key !== "commit" && found.origin[key] !== origin[key]);
    if (differs !== undefined) {
      throw new MisfitError(
        `--out: ${path} is of another evaluation (${differs} is ` +
          `${JSON.stringify(found.origin[differs])}, not ${JSON.stringify(origin[differs])}): ` +
          "name another file",
      );
    }
    const other = Object.keys(sources)
      .find((name) => (found.sources[name] ?? sources[name]) !== sources[name]);
    if (other !== undefined) {
      throw new MisfitError(
        `--out: ${path} has figures of another ${other} with the same name: name another file`,
      );
    }
    this.figures = found.figures as Figure[];
    this.#origin = found.origin;
    this.#sources = { ...found.sources, ...sources };
  }

  /** What the figures rest on: more than one commit where the program changed in between. */
  get origin(): Origin {
    return this.#origin;
  }

  /** Adds a figure and writes them all. */
  add(figure: Figure): void {
    this.figures.push(figure);
    this.save();
  }

  /**
   * Writes the figures, some of which are new.
   *
   * @throws {CommandError} If the file cannot be written.
   */
  save(): void {
    const commits = new Set([...String(this.#origin.commit).split(", "), this.#commit]);
    this.#origin = { ...this.#origin, commit: [...commits].join(", ") };
    if (this.path === null) return;
    const content = { origin: this.#origin, sources: this.#sources, figures: this.figures };
    try {
      writeWhole(this.path, `${JSON.stringify(content, null, 1)}\n`);
    } catch (error) {
      throw new CommandError(`--out: cannot write ${this.path}: ${reason(error)}`);
    }
  }
}

function readFile(path: string): z.infer<typeof fileSchema> | null {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw new MisfitError(`--out: cannot read ${path}: ${reason(error)}`);
  }
  try {
    return fileSchema.parse(JSON.parse(text));
  } catch {
    throw new MisfitError(`--out: ${path} holds no results: name another file`);
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
