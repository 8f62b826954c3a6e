/**
 * Turns a shader source into WGSL: `#include`, `#if` / `#else` / `#endif`, `#for` / `#endfor` and
 * names in capitals. Kernels are specialised by text because unrolled inner loops and array lengths
 * must be constants when the driver compiles them.
 *
 * Rules: every identifier written in capitals (two letters or more) is a define and must be given;
 * `#for i COUNT` repeats its body with `{i}` replaced by 0 .. COUNT-1; `#if` takes `NAME`, `!NAME`
 * or `NAME == value` (also `!=`, `>`, `<`).
 *
 * @module
 */

/** Values of the names in capitals. Booleans become `true` / `false`, also in `#if`. */
export type Defines = Readonly<Record<string, string | number | boolean>>;

/** A shader source that breaks the rules of the preprocessor. Names the file and line. */
export class ShaderSourceError extends Error {
  override readonly name = "ShaderSourceError";
}

const NAME = /\b[A-Z][A-Z0-9_]+\b/g;

type Reader = (path: string) => string;

/**
 * Expands a shader.
 *
 * @param path Name of the source, as `read` understands it.
 * @param defines Values for the names in capitals.
 * @param read Gives the text of a source file.
 * @throws {ShaderSourceError} On an unknown name or directive, or unbalanced blocks.
 */
export function preprocess(path: string, defines: Defines, read: Reader): string {
  return new Preprocessor(defines, read).expandFile(path);
}

interface Line {
  readonly text: string;
  readonly where: string;
}

class Preprocessor {
  readonly #included = new Set<string>();

  constructor(readonly defines: Defines, readonly read: Reader) {}

  expandFile(path: string): string {
    if (this.#included.has(path)) return "";
    this.#included.add(path);
    const lines = this.read(path).split("\n")
      .map((text, index) => ({ text, where: `${path}:${index + 1}` }));
    return this.#block(lines, new Map());
  }

  #block(lines: readonly Line[], loops: ReadonlyMap<string, number>): string {
    const out: string[] = [];
    for (let i = 0; i < lines.length; i++) {
      const line = lines[i]!;
      const directive = /^\s*#(\w+)\s*(.*?)\s*$/.exec(line.text);
      if (directive === null) {
        out.push(this.#substitute(line, loops));
        continue;
      }
      const [, name, rest] = directive as unknown as [string, string, string];
      if (name === "include") {
        const target = /^"([^"]+)"$/.exec(rest)?.[1];
        if (target === undefined) {
          throw new ShaderSourceError(`${line.where}: bad #include ${rest}`);
        }
        out.push(this.expandFile(target));
      } else if (name === "if") {
        const [end, middle] = matching(lines, i, "if", "endif");
        const yes = lines.slice(i + 1, middle ?? end);
        const no = middle === undefined ? [] : lines.slice(middle + 1, end);
        out.push(this.#block(this.#condition(rest, line, loops) ? yes : no, loops));
        i = end;
      } else if (name === "for") {
        const [end] = matching(lines, i, "for", "endfor");
        const parsed = /^(\w+)\s+(\w+)$/.exec(rest);
        if (parsed === null) throw new ShaderSourceError(`${line.where}: bad #for ${rest}`);
        const count = Number(this.#value(parsed[2]!, line));
        if (!Number.isInteger(count) || count < 0) {
          throw new ShaderSourceError(`${line.where}: #for needs a count, got ${parsed[2]}`);
        }
        const body = lines.slice(i + 1, end);
        for (let n = 0; n < count; n++) {
          out.push(this.#block(body, new Map(loops).set(parsed[1]!, n)));
        }
        i = end;
      } else {
        throw new ShaderSourceError(`${line.where}: unexpected #${name}`);
      }
    }
    return out.join("\n");
  }

  #substitute(line: Line, loops: ReadonlyMap<string, number>): string {
    const comment = line.text.indexOf("//");
    const code = comment < 0 ? line.text : line.text.slice(0, comment);
    return code
      .replace(/\{(\w+)\}/g, (whole, name) => {
        const value = loops.get(name);
        return value === undefined ? whole : String(value);
      })
      .replace(NAME, (name) => String(this.#value(name, line)));
  }

  #value(name: string, line: Line): string | number | boolean {
    if (/^\d+$/.test(name)) return Number(name);
    const value = this.defines[name];
    if (value === undefined) throw new ShaderSourceError(`${line.where}: ${name} is not defined`);
    return value;
  }

  #condition(text: string, line: Line, loops: ReadonlyMap<string, number>): boolean {
    const expanded = text.replace(/\{(\w+)\}/g, (whole, name) => String(loops.get(name) ?? whole));
    return expanded.split("&&").every((part) => {
      const test = /^(!?)\s*(\w+)(?:\s*(==|!=|>|<)\s*(\w+))?$/.exec(part.trim());
      if (test === null) throw new ShaderSourceError(`${line.where}: bad condition ${text}`);
      const [, not, left, operator, right] = test;
      const a = this.#value(left!, line);
      if (operator === undefined) {
        const truth = a === true || (typeof a === "number" && a !== 0);
        return not === "!" ? !truth : truth;
      }
      const b = this.defines[right!] ?? right!;
      if (operator === "==") return String(a) === String(b);
      if (operator === "!=") return String(a) !== String(b);
      return operator === ">" ? Number(a) > Number(b) : Number(a) < Number(b);
    });
  }
}

/** Index of the line that closes the block opened at `start`, and of its `#else`. */
function matching(
  lines: readonly Line[],
  start: number,
  open: string,
  close: string,
): [end: number, middle: number | undefined] {
  let depth = 0;
  let middle: number | undefined;
  for (let i = start; i < lines.length; i++) {
    const name = /^\s*#(\w+)/.exec(lines[i]!.text)?.[1];
    if (name === open) depth++;
    else if (name === close && --depth === 0) return [i, middle];
    else if (name === "else" && open === "if" && depth === 1) middle = i;
  }
  throw new ShaderSourceError(`${lines[start]!.where}: #${open} without #${close}`);
}
