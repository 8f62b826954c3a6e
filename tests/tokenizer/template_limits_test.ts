/** Templates that mean harm: each ends by name, in time, and the next rendering works. */

import { assert } from "std-testing";
import { createChatTemplate, MAX_TEMPLATE_LENGTH } from "../../src/tokenizer/chat_template.ts";
import { ModelFileError } from "../../src/model/errors.ts";
import { TemplateError } from "../../src/tokenizer/types.ts";
import { DATA, openTokenizer } from "./_sources.ts";

const TOKENIZER = await openTokenizer(`${DATA}/bpe-qwen2.gguf`);
const LIMIT_MS = 1000;
const CONTENT = "messages[0].content";
const GROW = (how: string) =>
  `{% set ns = namespace(v=${how.includes("[") ? "[1]" : "'xxxxxxxx'"}) %}` +
  `{% for i in range(60) %}{% set ns.v = ${how} %}{% endfor %}{{ ns.v }}`;

/** `bounded`: time or memory, whichever this machine uses up first. */
type Case = readonly [string, string, string, TemplateError["code"] | "bounded"];

const HOSTILE: readonly Case[] = [
  ["loops for ever", loops("{% set x = 1 %}"), "", "timeout"],
  ["loops and writes", loops("{{ 'aaaaaaaaaaaaaaaa' }}"), "", "bounded"],
  ["makes objects for ever", loops("{% set x = {'a': [1, 2]} %}"), "", "bounded"],
  [
    "a long range from a variable",
    "{% set n = 100000000 %}{{ range(n) | length }}",
    "",
    "too_long",
  ],
  ["a long range from text", "{{ range('100000000' | int) | length }}", "", "too_long"],
  ["a range with step 0", "{{ range(0, 9, 0) | length }}", "", "too_long"],
  ["a range to infinity", "{{ range(0, 1 / 0) | length }}", "", "too_long"],
  ["doubles a string", GROW("ns.v ~ ns.v"), "", "too_long"],
  ["doubles a string in memory", GROW("(ns.v ~ ns.v) | upper"), "", "too_long"],
  ["doubles a list", GROW("ns.v + ns.v + []"), "", "too_long"],
  ["nests a list in itself", GROW("[ns.v, ns.v]"), "", "bounded"],
  [
    "joins with a long text",
    `{{ range(9000) | join(${CONTENT}) }}`,
    "y".repeat(60_000),
    "too_long",
  ],
  [
    "replaces by itself",
    `{{ ${CONTENT} | replace('y', ${CONTENT}) }}`,
    "y".repeat(20_000),
    "too_long",
  ],
  ["replaces nothing", `{{ ${CONTENT}.replace('', ${CONTENT}) }}`, "y".repeat(20_000), "too_long"],
  ["indents far", "{{ 'a\\nb' | indent(500000000) }}", "", "too_long"],
  ["indents JSON far", "{{ messages | tojson(indent=400000000) }}", "x", "too_long"],
  [
    "writes 10 MB",
    `{% for i in range(10000) %}{{ ${CONTENT} }}{% endfor %}`,
    "y".repeat(1000),
    "too_long",
  ],
  [
    "collects long blocks",
    `{% set x %}${`{{ ${CONTENT} }}`.repeat(5000)}{% endset %}{{ x | upper }}`,
    "y".repeat(1_000_000),
    "too_long",
  ],
  ["calls itself", "{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}", "", "invalid"],
  ["asks for a filter that is not there", "{{ messages | frobnicate }}", "", "invalid"],
  ["multiplies a string", "{{ 'x' * 1000000000 }}", "", "invalid"],
];

function loops(body: string): string {
  const open = "{% for i in range(10000) %}";
  return open.repeat(3) + body + "{% endfor %}".repeat(3);
}

for (const [name, source, content, code] of HOSTILE) {
  Deno.test(`render() ends a template that ${name}: ${code}`, async () => {
    const template = createChatTemplate(source, TOKENIZER);
    try {
      await template.validate("hostile.gguf");
      const start = performance.now();
      const error = await template.render([{ role: "user", content }]).then(() => null, (e) => e);
      const elapsed = performance.now() - start;
      assert.ok(error instanceof TemplateError, String(error));
      if (code === "bounded") assert.ok(["timeout", "too_long"].includes(error.code));
      else assert.equal(error.code, code, error.message);
      assert.ok(elapsed < LIMIT_MS, `${elapsed} ms`);
    } finally {
      template.close();
    }
  });
}

Deno.test("a rendering after one that was ended by force works", async () => {
  // Sorting one long list is a single step: only ending the worker ends it.
  const source =
    `{% if ${CONTENT} != 'go' %}{{ ${CONTENT}.split(' ') | sort | length }}{% endif %}ok`;
  const template = createChatTemplate(source, TOKENIZER, {}, { deadlineMs: 50 });
  try {
    const content = "y x ".repeat(400_000);
    await assert.rejects(
      template.render([{ role: "user", content }]),
      (error) => error instanceof TemplateError && error.code === "timeout",
    );
    assert.equal((await template.render([{ role: "user", content: "go" }])).text, "ok");
  } finally {
    template.close();
  }
});

Deno.test("validate() refuses what is no template, within a second", async () => {
  const bad: readonly (readonly [string, string])[] = [
    ["an open block", "{% if x %}"],
    ["an open expression", "{{ messages"],
    ["an unknown statement", "{% frobnicate %}"],
    ["a literal long range", "{% for i in range(100000000) %}x{% endfor %}"],
    ["a literal long range that counts down", "{{ range(0, -100000000, -1) }}"],
    ["a literal long range in a macro", "{% macro f() %}{{ range(5, 20000) }}{% endmacro %}"],
    ["deep nesting", `{{${"(".repeat(20_000)}1${")".repeat(20_000)}}}`],
    ["deep blocks", "{% if a %}".repeat(10_000) + "{% endif %}".repeat(10_000)],
    ["a long run of spaces", `{{${" ".repeat(100_000)}`],
    ["a long run of line ends", "\n".repeat(100_000)],
    ["a long template", "x".repeat(MAX_TEMPLATE_LENGTH + 1)],
  ];
  for (const [name, source] of bad) {
    const template = createChatTemplate(source, TOKENIZER);
    try {
      const start = performance.now();
      await assert.rejects(
        template.validate("bad.gguf"),
        (error) => error instanceof ModelFileError && error.code === "bad_template",
        name,
      );
      assert.ok(performance.now() - start < LIMIT_MS, name);
    } finally {
      template.close();
    }
  }
});

Deno.test("render() refuses too many messages and too long ones", async () => {
  const template = createChatTemplate("x", TOKENIZER, {}, { maxMessages: 3, maxLength: 100 });
  const message = { role: "user", content: "y".repeat(30) } as const;
  assert.equal((await template.render([message, message, message])).text, "x");
  for (
    const messages of [[message, message, message, message], [{
      ...message,
      content: "y".repeat(101),
    }]]
  ) {
    await assert.rejects(
      template.render(messages),
      (error) => error instanceof TemplateError && error.code === "too_long",
    );
  }
  template.close();
  await assert.rejects(template.render([message]), TemplateError);
});

Deno.test("templates reach no JavaScript: prototypes and constructors are empty", async () => {
  const source = "[{{ messages.constructor }}{{ messages.__proto__ }}{{ ''.constructor }}" +
    "{{ messages[0].constructor }}{{ range.constructor }}{{ globalThis }}{{ self }}{{ Deno }}]";
  const template = createChatTemplate(source, TOKENIZER);
  try {
    assert.equal((await template.render([{ role: "user", content: "" }])).text, "[]");
  } finally {
    template.close();
  }
});

Deno.test("a worker that does not start, or dies, fails one rendering, and the next starts another", async () => {
  const { Worker } = globalThis;
  const bad = "throw new Error('no memory')";
  for (
    const [source, message] of [
      [bad, /does not start/],
      [`postMessage({ type: 'ready' }); onmessage = () => { ${bad} }`, /died: .*no memory/],
    ] as const
  ) {
    const template = createChatTemplate("{{ messages[0].content }}", TOKENIZER);
    try {
      globalThis.Worker = class extends Worker {
        constructor() {
          super(`data:text/javascript,${source}`, { type: "module" });
        }
      };
      await assert.rejects(template.render([{ role: "user", content: "a" }]), {
        name: "TemplateError",
        code: "unavailable",
        message,
      });
      globalThis.Worker = Worker;
      assert.equal((await template.render([{ role: "user", content: "b" }])).text, "b");
    } finally {
      globalThis.Worker = Worker;
      template.close();
    }
  }
});

Deno.test("renderings that wait for each other have a bound", async () => {
  const template = createChatTemplate("{{ messages[0].content }}", TOKENIZER);
  try {
    const waiting = Array.from(
      { length: 256 },
      (_, i) => template.render([{ role: "user", content: `${i}` }]),
    );
    await assert.rejects(template.render([{ role: "user", content: "more" }]), {
      name: "EncodeError",
      code: "busy",
    });
    const texts = (await Promise.all(waiting)).map(({ text }) => text);
    assert.deepEqual(texts, Array.from({ length: 256 }, (_, i) => `${i}`));
    assert.equal((await template.render([{ role: "user", content: "again" }])).text, "again");
  } finally {
    template.close();
  }
});
