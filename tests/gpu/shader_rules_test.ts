/** Rules that the compilers do not enforce, checked on the text of every shader. */
import { assetPath } from "../../src/assets.ts";
import { assert } from "std-testing";

interface Fault {
  readonly where: string;
  readonly name: string;
}

/**
 * Variables that a loop declares without a value and that are read before they are set. By the
 * language they are zero on every turn, but on some adapters only on the first. Looks at the next
 * mention after the declaration: `name = ...` or `name[...] = ...` sets it. That the other elements
 * of an array are set too is not checked. `#for` is no loop: its turns are separate code.
 */
function findUnsetInLoops(path: string, text: string): Fault[] {
  const faults: Fault[] = [];
  const code = text.replace(/\/\/.*$/gm, (comment) => " ".repeat(comment.length));
  /** One entry for each block that is open: whether it is, or lies in, the body of a loop. */
  const inLoop: boolean[] = [];
  let header = "";
  const tokens = /\{\w+\}|[{};]|^[ \t]*#.*$|[^{};#]+|#/gm;
  for (const { 0: token, index } of code.matchAll(tokens)) {
    if (token === "{") {
      inLoop.push((inLoop.at(-1) ?? false) || /\b(?:for|while|loop)\b/.test(header));
      header = "";
    } else if (token === "}") {
      inLoop.pop();
      header = "";
    } else if (token === ";") {
      const name = /^\s*var\s+([\w{}]+)\s*:[^=]*$/.exec(header)?.[1];
      if (name !== undefined && inLoop.at(-1) && !isSetFirst(code.slice(index), name)) {
        const line = code.slice(0, index).split("\n").length;
        faults.push({ where: `${path}:${line}`, name });
      }
      // The parts of a `for (;;)` belong to one header.
      if (!isOpen(header)) header = "";
    } else if (!/^[ \t]*#/.test(token)) {
      header += token;
    }
  }
  assert.equal(inLoop.length, 0, `${path}: braces do not match`);
  return faults;
}

function isOpen(header: string): boolean {
  return header.split("(").length > header.split(")").length;
}

function isSetFirst(rest: string, name: string): boolean {
  const escaped = name.replace(/[{}]/g, "\\$&");
  const next = new RegExp(`(?<![\\w.])${escaped}(?![\\w])(.*)`).exec(rest)?.[1];
  return next === undefined || /^\s*(?:\[[^\]]*\]\s*)?=(?!=)/.test(next);
}

function shaderPaths(folder = "shaders"): string[] {
  return [...Deno.readDirSync(assetPath(folder))].flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    return entry.isDirectory ? shaderPaths(path) : path.endsWith(".wgsl") ? [path] : [];
  });
}

Deno.test("shaders set every variable that a loop declares without a value", () => {
  const paths = shaderPaths();
  assert.ok(paths.includes("shaders/matmul.wgsl"));
  assert.ok(paths.includes("shaders/common/weights_k.wgsl"));
  const faults = paths.flatMap((path) =>
    findUnsetInLoops(path, Deno.readTextFileSync(assetPath(path)))
  );
  assert.deepEqual(faults, []);
});

Deno.test("the rule for variables in loops tells bad ones from good ones", () => {
  const inLoops = (body: string) => [
    `fn f() {\n  for (var i = 0u; i < 4u; i++) {\n${body}\n  }\n}`,
    `fn f() {\n  while (go) {\n    if (a) {\n${body}\n    }\n  }\n}`,
    `fn f() {\n  loop {\n#for r 2\n${body}\n#endfor\n  }\n}`,
  ];
  const bad = [
    "var sum: f32;\nsum += 1.0;",
    "var sum: vec4f; // set = later\nlet x = sum;\nsum = vec4f();",
    "var sum: array<f32, SUMS>;\nsum[{q}] += a;",
    "var sum_{r}: f32;\nif (sum_{r} == 0.0) { sum_{r} = 1.0; }",
  ];
  const good = [
    "var sum: f32;\nsum = 1.0;\nsum += 1.0;",
    "var sum = 0.0;\nsum += 1.0;",
    "var sum: f32 = 0.0;\nsum += 1.0;",
    "var sum: array<f32, SUMS>;\nlet sums = a.sum;\nsum[{q} * 4] = a;",
    "var sum_{r}: f32;\nsum_{r} = 1.0;",
  ];
  for (const [list, count] of [[bad, 1], [good, 0]] as const) {
    for (const text of list.flatMap(inLoops)) {
      assert.equal(findUnsetInLoops("text", text).length, count, text);
    }
  }
  const before =
    "fn f() {\n  var sum: f32;\n  for (var i = 0u; i < 4u; i++) {\n    sum += 1.0;\n  }\n}";
  assert.deepEqual(findUnsetInLoops("text", before), []);
  const after = "fn f() {\n  for (;;) {\n  }\n  var sum: f32;\n  sum += 1.0;\n}";
  assert.deepEqual(findUnsetInLoops("text", after), []);
});
