/**
 * What README, SECURITY.md, `--help`, `/docs` and the files in `deploy/` say is what the program
 * knows: flags, variables, routes and fields that they name exist, what they have to name is there, and
 * their bounds are the same.
 */
import { assert } from "std-testing";
import { BENCHMARKS } from "../bench/mod.ts";
import { COMMANDS } from "../src/cli/cli.ts";
import { envName, type Flag, flagName } from "../src/cli/flags.ts";
import { commandHelp } from "../src/cli/help.ts";
import { openApiDocument } from "../src/server/openapi/document.ts";
import { docsPage } from "../src/server/openapi/page.ts";
import { ROUTES } from "../src/server/openapi/routes.ts";

const read = (name: string) => Deno.readTextFileSync(new URL(`../${name}`, import.meta.url));
const README = read("README.md");
const PROSE = { "README.md": README, "SECURITY.md": read("SECURITY.md") };
const DEPLOY = ["Dockerfile", "compose.yaml", "kubernetes.yaml", "tokenbutler.service"];

const DOCUMENT = openApiDocument(ROUTES, "1.2.3");
const PAGE = docsPage(ROUTES, { version: "1.2.3", modelName: "tiny", needsKey: true })("http://x");
/** `--help` of the command that has routes, as one line. */
const HELP = await helpOf("serve");

/** Flags of other programs, and of tasks that are no commands. */
const FOREIGN_FLAGS = new Set([
  ...["--seed", "--minutes", "--clients", "--count", "--first", "--only"],
  "--max-semi-space-size",
]);
const DENO_FLAGS = /^--(allow|no-prompt|unstable|no-config|frozen)/;

/** How each command's flags may be written. */
async function flagsOf(command: string): Promise<Map<string, Flag<unknown>>> {
  const found = COMMANDS.find(({ name }) => name === command);
  assert.ok(found !== undefined, `there is no command ${command}`);
  const { flags } = (await found.load()).command;
  const names = new Map<string, Flag<unknown>>();
  for (const [key, flag] of Object.entries(flags)) {
    for (const name of [flagName(key), ...flag.aliases ?? []]) {
      names.set(`--${name}`, flag);
      if (flag.kind !== "value") names.set(`--no-${name}`, flag);
    }
  }
  return names;
}

/** Help of a command, without its lines. */
async function helpOf(command: string): Promise<string> {
  const found = COMMANDS.find(({ name }) => name === command);
  assert.ok(found !== undefined);
  return commandHelp((await found.load()).command).replace(/\s+/g, " ");
}

const FLAGS = new Map(
  await Promise.all(COMMANDS.map(async ({ name }) => [name, await flagsOf(name)] as const)),
);
const ALL_FLAGS = new Set([...FLAGS.values()].flatMap((flags) => [...flags.keys()]));

/** Text of a page between a heading and the next one of its level. */
function section(heading: string): string {
  const start = README.indexOf(`\n## ${heading}\n`);
  assert.ok(start >= 0, `README.md has no section ${heading}`);
  const end = README.indexOf("\n## ", start + 1);
  return README.slice(start, end < 0 ? undefined : end);
}

/** Whatever stands between backquotes, but for blocks of code. */
const quotedIn = (text: string) =>
  [...text.replace(/```[\s\S]*?```/g, "").matchAll(/`([^`]+)`/g)].map(([, quoted]) =>
    quoted!.replace(/\s+/g, " ")
  );

Deno.test("every flag that the pages name is a flag of a command", () => {
  const pages = {
    ...PROSE,
    "--help": HELP,
    "/docs": PAGE,
    "/openapi.json": JSON.stringify(DOCUMENT),
  };
  for (const [page, text] of Object.entries(pages)) {
    const named = new Set(
      [...text.matchAll(/(?<![\w-])--[a-z][a-z0-9-]*(?![\w-])/g)].map(([flag]) => flag),
    );
    assert.ok(named.size >= (page.startsWith("/") ? 1 : 5), page);
    for (const flag of named) {
      if (flag === "--help" || FOREIGN_FLAGS.has(flag) || DENO_FLAGS.test(flag)) continue;
      assert.ok(ALL_FLAGS.has(flag), `${page} names ${flag}, which is no flag`);
    }
  }
});

Deno.test("every command line that the pages show has flags of its command", () => {
  let numLines = 0;
  for (const [page, text] of Object.entries(PROSE)) {
    const lines = [
      ...[...text.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block]) => block!.split("\n")),
      ...quotedIn(text),
    ];
    for (const line of lines) {
      const [, command = "", rest = ""] = line.match(/^\.\/run (\w+)([^#]*)/) ?? [];
      const flags = FLAGS.get(command);
      if (flags === undefined) continue;
      numLines++;
      for (const [flag] of rest.matchAll(/--[a-z][a-z0-9-]*/g)) {
        if (flag !== "--help") {
          assert.ok(flags.has(flag), `${page}: ${command} has no ${flag} in: ${line}`);
        }
      }
    }
  }
  assert.ok(numLines >= 8, `${numLines} lines`);
});

Deno.test("defaults in the README's table of flags are those of serve", () => {
  const serve = FLAGS.get("serve")!;
  let numChecked = 0;
  for (const line of section("Configuration").split("\n")) {
    const [, names, given] = line.split(/(?<!\\)\|/).map((cell) => cell.trim());
    if (names === undefined || !names.startsWith("`--")) continue;
    const flags = [...names.matchAll(/--[a-z-]+/g)].map(([flag]) => flag);
    const defaults = given!.split(", ");
    for (const [nth, name] of flags.entries()) {
      const flag = serve.get(name);
      if (flag === undefined) continue;
      const plain = defaults[nth]?.match(/^`?([\w.]+)`?(?: \(`serve`(?:\/`doctor`)?\))?$/)?.[1];
      if (plain === undefined) continue;
      const fallback = flag.fallback === null
        ? "none"
        : typeof flag.fallback === "boolean"
        ? (flag.fallback ? "on" : "off")
        : String(flag.fallback);
      assert.equal(plain, fallback, name);
      numChecked++;
    }
  }
  assert.ok(numChecked >= 8, `${numChecked} defaults`);
});

/** A default as the pages write it: in seconds, in MiB, or as a number with commas. */
function written(name: string, fallback: unknown): string {
  const number = Number(fallback);
  if (name === "--body-limit") return `${number / 2 ** 20} MiB`;
  const text = number.toLocaleString("en-US");
  return name.endsWith("-timeout") ? `${text} s` : text;
}

Deno.test("bounds in SECURITY.md, and those that README names beside their flags, are those of serve", () => {
  const serve = FLAGS.get("serve")!;
  const rows = [...PROSE["SECURITY.md"].matchAll(/^\| .*? \| (.*?) +\| `(--[a-z-]+)` +\|$/gm)];
  assert.ok(rows.length >= 8, `${rows.length} rows`);
  let numNumbers = 0;
  for (const [, bound = "", name = ""] of rows) {
    const flag = serve.get(name)!;
    if (flag.fallback === null) {
      const text = flag.fallbackText?.replace(" the ", " ") ?? "";
      assert.equal(bound, text, name);
    } else if (!bound.includes("or the flag's")) {
      assert.ok(bound.startsWith(written(name, flag.fallback)), `${name}: ${bound}`);
      numNumbers++;
    }
  }
  const prose = README.replace(/\s+/g, " ");
  for (
    const [, name = "", bound = ""] of prose.matchAll(/`(--[a-z-]+)`(?: \w+)? \(([\d,]+(?: s)?)\)/g)
  ) {
    assert.equal(bound, written(name, serve.get(name)!.fallback), name);
    numNumbers++;
  }
  assert.ok(numNumbers >= 10, `${numNumbers} bounds`);
});

Deno.test("--help names routes and fields that /docs has, and bounds that are the same there", () => {
  const served = new Set(ROUTES.map(({ path }) => bare(path)));
  const named = [...HELP.matchAll(/(?<![\w.<>/])\/[a-z][\w/{}]*/g)].map(([route]) => route);
  assert.ok(named.length >= 4, named.join(" "));
  for (const route of named) assert.ok(served.has(bare(route)), `--help names ${route}`);
  const fields = new Set(ROUTES.flatMap(({ body }) => Object.keys(body?.fields ?? {})));
  assert.ok(HELP.includes("a request's sse_ping_interval") && fields.has("sse_ping_interval"));
  const most = HELP.match(/answers to one prompt \(n\), (\d+) at most/)?.[1];
  assert.ok(PAGE.includes(`<code>integer 1..${most}</code>`), most);
  // What a route needs of the command line is named in both.
  for (const flag of PAGE.match(/--[a-z-]+/g) ?? []) assert.ok(HELP.includes(` ${flag} `), flag);
});

/** Second names of routes. */
const ALIASES: Readonly<Record<string, string>> = { "/v1/health": "/health" };

/** A route as it is compared: no method, no query, names of parts aside. */
const bare = (path: string) =>
  path.replace(/^(GET|POST) /, "").replace(/\?.*/, "").replace(
    /\{\w+\}|\/\d+(?=\/|$)/g,
    (part) => part.startsWith("/") ? "/{}" : "{}",
  );

Deno.test("every route that the pages name is served, and README names every route", () => {
  const served = new Set(ROUTES.map(({ path }) => bare(path)));
  const heads = new Set(ROUTES.map(({ path }) => path.split("/")[1]));
  for (const [page, text] of Object.entries(PROSE)) {
    const named = quotedIn(text).filter((quoted) => /^((GET|POST) )?\/[\w{]/.test(quoted));
    assert.ok(named.length >= 2, page);
    for (const route of named) {
      // Short for what stands before it; or a place in the file system.
      const isRoute = /^(GET|POST) /.test(route) || heads.has(bare(route).split("/")[1]);
      if (isRoute) assert.ok(served.has(bare(route)), `${page} names ${route}`);
    }
  }
  const named = new Set(quotedIn(section("HTTP API")).map(bare));
  for (const { path } of ROUTES) {
    // `/{id}` beside the list of models is short for the other one.
    const names = path.startsWith("/v1/models/") ? ["/{}"] : [bare(path), ALIASES[path]];
    assert.ok(names.some((name) => named.has(name!)), `README does not name ${path}`);
  }
  assert.deepEqual(
    Object.keys(DOCUMENT.paths).toSorted(),
    [...new Set(ROUTES.map(({ path }) => path))].toSorted(),
  );
});

/** Names of members and constants anywhere in a part of the API's description, its words included. */
function namesIn(part: unknown, names = new Set<string>()): Set<string> {
  if (typeof part === "string") { for (const name of [part, ...quotedIn(part)]) names.add(name); }
  if (typeof part === "object" && part !== null) {
    for (const [name, inner] of Object.entries(part)) {
      names.add(name);
      namesIn(inner, names);
    }
  }
  return names;
}

Deno.test("every field that README's chapter on the API names is in /openapi.json", () => {
  const known = namesIn(DOCUMENT);
  // Names of models, files and policies may be any word; fields of several words are told apart.
  const named = quotedIn(section("HTTP API")).flatMap((quoted) =>
    quoted.match(/(?<![\w-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w-])/g) ?? []
  );
  assert.ok(named.length >= 20, `${named.length}`);
  for (const name of named) assert.ok(known.has(name), `README names ${name}`);
  // What both routes "understand": members of a request, whatever they are called.
  const understood = quotedIn(
    section("HTTP API").match(/ understand ([\s\S]*?); completions also `echo`\./)?.[1] ?? "",
  );
  assert.ok(understood.length >= 20, `${understood.length}`);
  for (const path of ["/v1/completions", "/v1/chat/completions"]) {
    const fields = ROUTES.find((route) => route.path === path)?.body?.fields ?? {};
    for (const name of understood) assert.ok(name in fields, `${path} has no ${name}`);
  }
});

Deno.test("README's table of the settings of the KV cache has those that a request takes", () => {
  const table = section("HTTP API").split("### Settings of the KV cache")[1] ?? "";
  const named = [...table.matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name!);
  const { requestBody } = DOCUMENT.paths["/v1/chat/completions"]!["post"] as unknown as {
    requestBody: {
      content: Record<string, { schema: { properties: Record<string, { properties: object }> } }>;
    };
  };
  const kv = requestBody.content["application/json"]!.schema.properties["kv"]!;
  assert.deepEqual(named.toSorted(), Object.keys(kv.properties).toSorted());
});

Deno.test("README names every command, with the summary that --help has", () => {
  const table = section("Commands");
  for (const { name, summary } of COMMANDS) {
    const row = table.match(new RegExp(`^\\| \`${name}\` +\\| (.*?) +\\|$`, "m"))?.[1];
    assert.ok(row?.replaceAll("`", "").startsWith(summary), `${name}: ${row}`);
  }
});

Deno.test("variables that the pages and the deployment files name are flags of serve, or of the named job", async () => {
  const serve = COMMANDS.find(({ name }) => name === "serve")!;
  const train = COMMANDS.find(({ name }) => name === "train")!;
  const bench = BENCHMARKS.find(({ name }) => name === "http")!;
  const known = new Set(
    (await Promise.all([serve, train, bench].map(({ load }) => load())))
      .flatMap(({ command }) => Object.entries(command.flags))
      .map(([key, flag]) => envName(key, flag)),
  );
  known.add("TOKENBUTLER_DEBUG");
  let numNamed = 0;
  const texts = [
    ...DEPLOY.map((name) => [`deploy/${name}`, read(`deploy/${name}`)] as const),
    ...Object.entries(PROSE),
  ];
  for (const [page, text] of texts) {
    for (const [variable] of text.matchAll(/\bTOKENBUTLER_[A-Z][A-Z_]*\b/g)) {
      assert.ok(known.has(variable), `${page} names ${variable}`);
      numNamed++;
    }
  }
  assert.ok(numNamed >= 20, `${numNamed} variables`);
  const manifests = texts.map(([, text]) => text).join("");
  for (const name of ["TOKENBUTLER_API_KEY_FILE", "TOKENBUTLER_ALLOWED_HOST"]) {
    assert.ok(manifests.includes(name) && known.has(name), name);
  }
});
