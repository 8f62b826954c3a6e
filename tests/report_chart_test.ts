import { assert } from "std-testing";
import { type LineChart, lineChart, lineCharts } from "../src/report/chart.ts";

const CHART: LineChart = {
  title: "ms & <context>",
  notes: ['device "A", commit b'],
  x: { label: "context", scale: "log2", format: (value) => `${value / 1024}k` },
  y: { label: "ms a token", scale: "log10" },
  series: [
    { name: "dense", points: [[1024, 10], [2048, 20], [4096, 40]] },
    { name: "loki", points: [[1024, 10], [2048, 11], [4096, 100]], mark: 2, dashed: true },
  ],
};

/** Values of an attribute of the elements that match. */
const found = (svg: string, pattern: RegExp) =>
  [...svg.matchAll(pattern)].map((match) => match[1]!);

/** Every tag that opens is closed, in its order. */
function assertWellFormed(svg: string): void {
  const open: string[] = [];
  for (const [, slash, name, rest] of svg.matchAll(/<(\/?)([a-z]+)((?:[^<>"]|"[^"<]*")*)>/g)) {
    if (slash === "/") assert.equal(open.pop(), name);
    else if (!rest!.endsWith("/")) open.push(name!);
  }
  assert.deepEqual(open, []);
  assert.equal(svg.replace(/<\/?[a-z]+(?:[^<>"]|"[^"<]*")*>/g, "").match(/[<>]/), null);
}

Deno.test("lineChart() draws axes, curves, marks and a legend", () => {
  const svg = lineChart(CHART);
  assertWellFormed(svg);
  const texts = found(svg, /<text[^>]*>([^<]*)<\/text>/g);
  for (const wanted of ["1k", "2k", "4k", "10", "20", "50", "100", "dense", "loki", "ms a token"]) {
    assert.ok(texts.includes(wanted), `${wanted} is missing in ${texts}`);
  }
  assert.ok(texts.includes("ms &#38; &#60;context&#62;"));
  const curves = found(svg, /<path d="([^"]*)" fill="none"/g);
  assert.equal(curves.length, 2);
  // Equal steps on both axes: the first curve is straight.
  const points = curves[0]!.slice(1).split("L").map((point) => point.split(",").map(Number));
  assert.equal(points.length, 3);
  assert.ok(Math.abs(points[1]![0]! - (points[0]![0]! + points[2]![0]!) / 2) < 0.02);
  assert.ok(Math.abs(points[1]![1]! - (points[0]![1]! + points[2]![1]!) / 2) < 0.02);
  assert.ok(points[2]![1]! < points[0]![1]!, "larger values are higher");
  // Marks of three points and of the legend, for each curve.
  assert.equal(found(svg, /(<path d="[^"]*" transform="translate)/g).length, 8);
  assert.equal(found(svg, /(stroke-dasharray)/g).length, 2);
});

Deno.test("a point that an axis cannot show leaves a gap", () => {
  const points = [[1, 5], [2, 0], [4, NaN], [8, 5], [16, 6]] as const;
  const curve = (scale: "linear" | "log10") => {
    const chart = { ...CHART, y: { label: "y", scale }, series: [{ name: "s", points }] };
    return found(lineChart(chart), /<path d="([^"]*)" fill="none"/g)[0]!;
  };
  assert.equal(curve("log10").split("M").length - 1, 2);
  assert.equal(curve("linear").split(/[ML]/).length - 1, 4);
});

Deno.test("charts of one point and of one value can be drawn", () => {
  for (const scale of ["linear", "log2", "log10"] as const) {
    for (const value of scale === "linear" ? [0, -3, 7] : [0.001, 7, 1e9]) {
      const axis = { label: "a", scale };
      const series = [{ name: "s", points: [[value, value]] as const }];
      const svg = lineChart({ title: "t", x: axis, y: axis, series });
      assertWellFormed(svg);
      assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
    }
  }
});

Deno.test("lineCharts() stacks charts and refuses what has nothing to show", () => {
  const height = (svg: string) => Number(svg.match(/height="(\d+)"/)![1]);
  const two = lineCharts([CHART, CHART]);
  assertWellFormed(two);
  assert.equal(height(two), 2 * height(lineChart(CHART)));
  assert.throws(() => lineCharts([]), RangeError);
  const empty = { ...CHART, series: [{ name: "s", points: [[1, 0]] as const }] };
  assert.throws(() => lineChart(empty), /no point to show/);
});
