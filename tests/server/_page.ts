/** Reading the page of `/metrics` as strictly as promtool does. @module */
import { assert } from "std-testing";

/** The line grammar of Prometheus' text format, as promtool reads it. */
const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const LABEL = '[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\["\\\\n])*"';
const HELP = new RegExp(`^# HELP (${NAME}) \\S.*$`);
const TYPE = new RegExp(`^# TYPE (${NAME}) (counter|gauge|histogram)$`);
const SAMPLE = new RegExp(
  `^(${NAME})(\\{${LABEL}(?:,${LABEL})*\\})? (-?(?:\\d+(?:\\.\\d+)?(?:e[+-]?\\d+)?|\\+?Inf)|NaN)$`,
);

/** A page. */
export interface Page {
  /** Type of each metric by name. */
  readonly types: ReadonlyMap<string, string>;
  /** By name with labels. */
  readonly samples: ReadonlyMap<string, number>;
}

/** Reads a page strictly: every line is one of three forms, and each sample belongs to its metric. */
export function parsePage(text: string): Page {
  assert.ok(text.endsWith("\n"));
  const types = new Map<string, string>();
  const samples = new Map<string, number>();
  let current = "";
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const help = HELP.exec(line);
    const type = TYPE.exec(line);
    if (help !== null) {
      current = help[1]!;
      assert.ok(!types.has(current), `${current} comes twice`);
    } else if (type !== null) {
      assert.equal(type[1], current);
      types.set(current, type[2]!);
    } else {
      const [, name = "", labels = "", value = ""] = SAMPLE.exec(line) ?? [];
      assert.notEqual(name, "", line);
      const base = types.get(current) === "histogram"
        ? name.replace(/_(bucket|sum|count)$/, "")
        : name;
      assert.equal(base, current, line);
      const key = `${name}${labels}`;
      assert.ok(!samples.has(key), `${key} comes twice`);
      samples.set(key, Number(value.replace("Inf", "Infinity")));
    }
  }
  for (const [name, type] of types) if (type === "histogram") checkHistogram(name, samples);
  return { types, samples };
}

/** Buckets do not fall, and the last one holds all. */
function checkHistogram(name: string, samples: ReadonlyMap<string, number>): void {
  const groups = new Map<string, number[]>();
  for (const [key, value] of samples) {
    if (!key.startsWith(`${name}_bucket{`)) continue;
    const group = key.replace(/le="[^"]*",?/, "");
    groups.set(group, [...groups.get(group) ?? [], value]);
  }
  for (const [group, values] of groups) {
    assert.deepEqual(values, values.toSorted((a, b) => a - b), group);
  }
}

/** Nothing that was there is missing, and what counts does not go back. */
export function assertGrown(before: Page, after: Page): void {
  for (const [key, value] of before.samples) {
    const type = after.types.get(key.replace(/(_bucket|_sum|_count)?\{.*|(_sum|_count)$/, ""));
    const next = after.samples.get(key);
    assert.notEqual(next, undefined, key);
    if (type !== "gauge") assert.ok(next! >= value, `${key}: ${value}, then ${next}`);
  }
}
