import { assert, fc } from "std-testing";
import { createLogger, logText } from "../../src/observe/logger.ts";

const NOW = () => new Date("2026-01-31T12:00:00Z");

function logging(format: "text" | "json", level: "debug" | "info" | "warn" | "error" = "info") {
  const lines: string[] = [];
  const logger = createLogger({ format, level, write: (line) => lines.push(line), now: NOW });
  return { lines, logger };
}

Deno.test("a line of text has a time, a level and its fields; one of JSON is an object", () => {
  const fields = { request_id: "a b", status: 200, error: undefined, path: "/v1/models/{name}" };
  const text = logging("text");
  text.logger.log("info", "request", fields);
  assert.deepEqual(text.lines, [
    '2026-01-31T12:00:00.000Z info request request_id="a b" status=200 path=/v1/models/{name}\n',
  ]);
  const json = logging("json");
  json.logger.log("warn", "x", fields);
  assert.deepEqual(JSON.parse(json.lines[0]!), {
    time: "2026-01-31T12:00:00.000Z",
    level: "warn",
    message: "x",
    request_id: "a b",
    status: 200,
    path: "/v1/models/{name}",
  });
});

Deno.test("lines below the level are not written", () => {
  const { lines, logger } = logging("text", "warn");
  for (const level of ["debug", "info", "warn", "error"] as const) {
    logger.log(level, level);
    assert.equal(logger.enabled(level), level === "warn" || level === "error");
  }
  assert.equal(lines.length, 2);
});

Deno.test("what cannot be written harms nobody, and is told of when something can be", () => {
  const lines: string[] = [];
  let isFull = false;
  const write = (line: string) => {
    if (isFull) throw new Error("no space left on device");
    lines.push(line);
  };
  const logger = createLogger({ format: "json", level: "error", write, now: NOW });
  logger.log("error", "a");
  isFull = true;
  for (const message of ["b", "c", "d"]) logger.log("error", message);
  isFull = false;
  logger.log("error", "e");
  logger.log("error", "f");
  const told = lines.map((line) => JSON.parse(line)).map(({ message, count }) => [message, count]);
  assert.deepEqual(told, [
    ["a", undefined],
    ["lines of this log could not be written", 3],
    ["e", undefined],
    ["f", undefined],
  ]);
});

Deno.test("whatever a client sends stays in its field, and a line is one line", () => {
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 100 }), (value) => {
    for (const format of ["text", "json"] as const) {
      const { lines, logger } = logging(format);
      logger.log("error", value, { value, status: 200 });
      const [line = ""] = lines;
      assert.match(line, /^[^\p{Cc}\u2028\u2029]*\n$/u);
      if (format === "json") assert.equal(JSON.parse(line).value, value);
      else assert.ok(line.endsWith(" status=200\n"));
    }
  }));
});

Deno.test("messages for people become lines of a log", () => {
  const { lines, logger } = logging("text", "debug");
  logText(logger, "note: one\nwarning: two\n\nerror: three\nfour");
  assert.deepEqual(lines.map((line) => line.replace(/^\S+ /, "")), [
    "info one\n",
    "warn two\n",
    "error three\n",
    "info four\n",
  ]);
});
