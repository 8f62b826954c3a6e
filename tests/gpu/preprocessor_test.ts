import { type Defines, preprocess, ShaderSourceError } from "../../src/gpu/preprocessor.ts";
import { assert } from "std-testing";

/** Expands files given by name; the lines that are left, without blank ones. */
function expand(files: Readonly<Record<string, string>>, defines: Defines = {}): string[] {
  const text = preprocess("main", defines, (path) => {
    const found = files[path];
    if (found === undefined) throw new Error(`no file ${path}`);
    return found;
  });
  return text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
}

function refuses(source: string, message: RegExp, defines: Defines = {}): void {
  assert.throws(() => expand({ main: source }, defines), (error) => {
    assert.ok(error instanceof ShaderSourceError, String(error));
    assert.match(error.message, message);
    return true;
  });
}

Deno.test("preprocess() replaces names in capitals, whole ones only", () => {
  const defines = { WG: 8, HEAD_DIM: "64u", FAST: true };
  assert.deepEqual(expand({ main: "a(WG, HEAD_DIM); let Wg = x_WG; f(FAST, X)" }, defines), [
    "a(8, 64u); let Wg = x_WG; f(true, X)",
  ]);
});

Deno.test("preprocess() drops comments, so that names in them need no value", () => {
  assert.deepEqual(expand({ main: "// ROWS: tile\nlet a = 1; // of ROWS" }), ["let a = 1;"]);
});

Deno.test("preprocess() includes a file once, wherever it is named", () => {
  const files = {
    main: '#include "one"\n#include "two"\nend',
    one: "fn one() {}",
    two: '  #include "one"\nfn two() {}',
  };
  assert.deepEqual(expand(files), ["fn one() {}", "fn two() {}", "end"]);
});

Deno.test("preprocess() chooses between branches, nested ones too", () => {
  const main = `
#if A1
a
#if B1
ab
#else
a-
#endif
#else
#if B1
-b
#else
--
#endif
#endif
end`;
  const pick = (A1: boolean, B1: boolean) => expand({ main }, { A1, B1 });
  assert.deepEqual(pick(true, true), ["a", "ab", "end"]);
  assert.deepEqual(pick(true, false), ["a", "a-", "end"]);
  assert.deepEqual(pick(false, true), ["-b", "end"]);
  assert.deepEqual(pick(false, false), ["--", "end"]);
});

Deno.test("preprocess() leaves out names of branches that are not taken", () => {
  assert.deepEqual(expand({ main: "#if ON\na\n#else\nNOWHERE\n#endif" }, { ON: true }), ["a"]);
});

Deno.test("preprocess() understands every form of condition", () => {
  const cases: readonly [string, Defines, boolean][] = [
    ["FLAG", { FLAG: true }, true],
    ["FLAG", { FLAG: false }, false],
    ["FLAG", { FLAG: 2 }, true],
    ["FLAG", { FLAG: 0 }, false],
    ["FLAG", { FLAG: "true" }, false],
    ["!FLAG", { FLAG: false }, true],
    ["!FLAG", { FLAG: true }, false],
    ["! FLAG", { FLAG: 0 }, true],
    ["KIND == f16", { KIND: "f16" }, true],
    ["KIND == f16", { KIND: "f32" }, false],
    ["KIND != f16", { KIND: "f32" }, true],
    ["KIND != f16", { KIND: "f16" }, false],
    ["TOKENS == 1", { TOKENS: 1 }, true],
    ["TOKENS == LANES", { TOKENS: 4, LANES: 4 }, true],
    ["TOKENS != LANES", { TOKENS: 4, LANES: 4 }, false],
    ["TOKENS > 3", { TOKENS: 4 }, true],
    ["TOKENS > 4", { TOKENS: 4 }, false],
    ["TOKENS > LANES", { TOKENS: 10, LANES: 9 }, true],
    ["TOKENS < 10", { TOKENS: 9 }, true],
    ["TOKENS < LANES", { TOKENS: 10, LANES: 9 }, false],
    ["4 == TOKENS", { TOKENS: 4 }, true],
    ["FLAG && KIND == f16", { FLAG: true, KIND: "f16" }, true],
    ["FLAG && KIND == f16", { FLAG: true, KIND: "f32" }, false],
    ["FLAG && !OTHER", { FLAG: true, OTHER: false }, true],
  ];
  for (const [condition, defines, want] of cases) {
    const got = expand({ main: `#if ${condition}\nyes\n#else\nno\n#endif` }, defines);
    assert.deepEqual(got, [want ? "yes" : "no"], `${condition} with ${JSON.stringify(defines)}`);
  }
});

Deno.test("preprocess() repeats the body of #for with the number put in", () => {
  assert.deepEqual(expand({ main: "#for i 3\nx_{i} = {i}u;\n#endfor" }), [
    "x_0 = 0u;",
    "x_1 = 1u;",
    "x_2 = 2u;",
  ]);
  assert.deepEqual(expand({ main: "#for i ROWS\na{i}\n#endfor\nend" }, { ROWS: 0 }), ["end"]);
});

Deno.test("preprocess() nests loops and branches in loops", () => {
  const main = `
#for r ROWS
#for t TOKENS
#if {t} > 0
more_{r}_{t}
#else
first_{r}_{t}
#endif
#endfor
#endfor`;
  assert.deepEqual(expand({ main }, { ROWS: 2, TOKENS: 2 }), [
    "first_0_0",
    "more_0_1",
    "first_1_0",
    "more_1_1",
  ]);
});

Deno.test("preprocess() leaves braces alone that name no loop", () => {
  assert.deepEqual(expand({ main: "#for i 1\nif (a) {b} {i}\n#endfor" }), ["if (a) {b} 0"]);
});

Deno.test("preprocess() refuses unknown names and says where", () => {
  refuses("ok\nlet a = WIDTH;", /^main:2: WIDTH is not defined$/);
  refuses("#if WIDTH\n#endif", /^main:1: WIDTH is not defined$/);
  refuses("#for i WIDTH\n#endfor", /^main:1: WIDTH is not defined$/);
});

Deno.test("preprocess() refuses blocks that do not match", () => {
  const defines = { FLAG: true };
  refuses("a\n#if FLAG\nb", /^main:2: #if without #endif$/, defines);
  refuses("#for i 2\nb", /^main:1: #for without #endfor$/);
  refuses("a\n#endif", /^main:2: unexpected #endif$/);
  refuses("#endfor", /^main:1: unexpected #endfor$/);
  refuses("#else", /^main:1: unexpected #else$/);
  refuses("#for i 2\n#if FLAG\n#endfor", /#if without #endif/, defines);
});

Deno.test("preprocess() refuses directives that are malformed or unknown", () => {
  refuses("#include common", /^main:1: bad #include common$/);
  refuses("#for i\n#endfor", /^main:1: bad #for i$/);
  refuses("#for i A B\n#endfor", /^main:1: bad #for/);
  refuses("#for i SIZE\n#endfor", /#for needs a count, got SIZE/, { SIZE: "many" });
  refuses("#for i SIZE\n#endfor", /#for needs a count, got SIZE/, { SIZE: -1 });
  refuses("#if FLAG || FLAG\n#endif", /^main:1: bad condition FLAG \|\| FLAG$/, { FLAG: true });
  refuses("#if\n#endif", /bad condition/);
  refuses("#define A 1", /^main:1: unexpected #define$/);
});
