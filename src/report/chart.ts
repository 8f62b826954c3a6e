/**
 * Line charts as SVG, without a browser: axes that are linear or logarithmic, a legend, marks on the
 * points. General: whatever has curves can use it.
 *
 * @module
 */
// @ts-types="@types/d3-scale"
import { scaleLinear, scaleLog } from "d3-scale";
// @ts-types="@types/d3-shape"
import {
  line,
  symbol,
  symbolCircle,
  symbolDiamond,
  symbolSquare,
  symbolStar,
  symbolTriangle,
} from "d3-shape";

/** One axis. */
export interface Axis {
  readonly label: string;
  /** `log2` has ticks at powers of two. */
  readonly scale: "linear" | "log2" | "log10";
  /** Text of a tick; absent: up to three digits. */
  readonly format?: (value: number) => string;
}

/** One curve. */
export interface Series {
  readonly name: string;
  /** In the order in which they are joined. What an axis cannot show leaves a gap. */
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Number of its colour; absent: its place in the list. */
  readonly color?: number;
  /** Number of the mark on its points; absent: a circle. */
  readonly mark?: number;
  readonly dashed?: boolean;
}

/** A chart. */
export interface LineChart {
  readonly title: string;
  /** Small lines under the title. */
  readonly notes?: readonly string[];
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

/** Colours that people who cannot tell red from green can tell apart (Okabe and Ito), and two more. */
const COLORS = [
  "#000000",
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#7f3c8d",
  "#80790a",
];
const MARKS = [symbolCircle, symbolSquare, symbolTriangle, symbolDiamond, symbolStar];

const PLOT = { width: 620, height: 400 };
const LEFT = 70;
const RIGHT = 16;
const LEGEND_MARK = 26;
const LETTER = 6.6;
const LINE = 17;

/** What both kinds of scale have. */
interface Scale {
  (value: number): number;
  ticks(count: number): number[];
  domain(): number[];
}

/** A chart as a document. @throws {RangeError} If no point can be shown. */
export function lineChart(chart: LineChart): string {
  return lineCharts([chart]);
}

/**
 * Several charts in one document, one under the other.
 *
 * @throws {RangeError} If there is none, or one of them has no point that can be shown.
 */
export function lineCharts(charts: readonly LineChart[]): string {
  const drawn = charts.map(draw);
  const width = Math.max(...drawn.map((each) => each.width));
  let height = 0;
  const body = drawn.map((each) => {
    const group = `<g transform="translate(0,${height})">${each.body}</g>`;
    height += each.height;
    return group;
  });
  if (drawn.length === 0) throw new RangeError("there is no chart to draw");
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ` +
    `width="${width}" height="${height}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    ...body,
    "</svg>\n",
  ].join("\n");
}

interface Drawn {
  readonly width: number;
  readonly height: number;
  readonly body: string;
}

function draw({ title, notes = [], x, y, series }: LineChart): Drawn {
  const shown = series.flatMap(({ points }) => points).filter(([px, py]) =>
    fits(x, px) && fits(y, py)
  );
  if (shown.length === 0) throw new RangeError(`chart "${title}" has no point to show`);
  const top = 34 + notes.length * LINE;
  const xScale = scaleOf(x, shown.map(([px]) => px), [0, PLOT.width]);
  const yScale = scaleOf(y, shown.map(([, py]) => py), [PLOT.height, 0]);
  const legendWidth = LEGEND_MARK + 8 +
    LETTER * Math.max(...series.map(({ name }) => name.length));
  const plane = { x, y, xScale, yScale };
  const parts = [
    text(LEFT, 20, title, `font-size="15" font-weight="bold"`),
    ...notes.map((note, index) => text(LEFT, 20 + LINE * (index + 1), note, `fill="#666"`)),
    `<g transform="translate(${LEFT},${top})">`,
    ...xAxis(x, xScale),
    ...yAxis(y, yScale),
    ...series.flatMap((each, index) => curve(each, index, plane)),
    ...series.flatMap((each, index) => legend(each, index)),
    "</g>",
  ];
  const below = Math.max(PLOT.height + 48, series.length * LINE + 10);
  const head = LEFT + 9 * title.length;
  const widest = Math.max(head, ...notes.map((note) => LEFT + LETTER * note.length));
  return {
    width: Math.ceil(Math.max(LEFT + PLOT.width + RIGHT + legendWidth + RIGHT, widest)),
    height: top + below,
    body: parts.join("\n"),
  };
}

/** Whether an axis can show a value. */
function fits({ scale }: Axis, value: number): boolean {
  return Number.isFinite(value) && (scale === "linear" || value > 0);
}

function scaleOf(axis: Axis, values: readonly number[], range: [number, number]): Scale {
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (axis.scale === "linear") {
    // Lengths and times begin at nothing.
    const spread: [number, number] = low === high ? [low - 1, high + 1] : [low, high];
    return scaleLinear<number, number>(low >= 0 ? [0, high || 1] : spread, range).nice();
  }
  const base = axis.scale === "log2" ? 2 : 10;
  const room = low === high ? 2 : 1.1;
  const scale = scaleLog<number, number>([
    low / (base === 2 ? 1 : room),
    high * (base === 2 ? 1 : room),
  ], range);
  return (low === high ? scale.domain([low / 2, high * 2]) : scale).base(base);
}

/** Values that get a line and a text: of a logarithmic axis not so many that they touch. */
function ticksOf({ scale }: Axis, by: Scale): number[] {
  const ticks = by.ticks(8);
  if (scale === "log2") {
    const powers = powersOfTwo(by.domain());
    return powers.length < 2 ? ticks : powers;
  }
  if (scale !== "log10" || ticks.length <= 10) return ticks;
  const leads = (digits: readonly number[]) =>
    ticks.filter((tick) => digits.includes(Number(tick.toExponential()[0])));
  const few = leads([1, 2, 5]);
  return few.length <= 12 ? few : leads([1]);
}

/** Those within the domain; of many only every second, third and so on. */
function powersOfTwo(domain: readonly number[]): number[] {
  const first = Math.ceil(Math.log2(domain[0]!) - 1e-9);
  const last = Math.floor(Math.log2(domain[1]!) + 1e-9);
  const step = Math.ceil((last - first + 1) / 10);
  const powers = [];
  for (let power = first; power <= last; power += step) powers.push(2 ** power);
  return powers;
}

function tickText({ format }: Axis, value: number): string {
  return format?.(value) ?? String(Number(value.toPrecision(3)));
}

function xAxis(axis: Axis, scale: Scale): string[] {
  return [
    ...ticksOf(axis, scale).flatMap((tick) => {
      const at = fixed(scale(tick));
      return [
        `<path d="M${at},0V${PLOT.height + 5}" stroke="#ddd"/>`,
        text(at, PLOT.height + 19, tickText(axis, tick), `text-anchor="middle"`),
      ];
    }),
    `<path d="M0,${PLOT.height}H${PLOT.width}" stroke="#222"/>`,
    text(PLOT.width / 2, PLOT.height + 38, axis.label, `text-anchor="middle"`),
  ];
}

function yAxis(axis: Axis, scale: Scale): string[] {
  return [
    ...ticksOf(axis, scale).flatMap((tick) => {
      const at = fixed(scale(tick));
      return [
        `<path d="M-5,${at}H${PLOT.width}" stroke="#ddd"/>`,
        text(-9, at + 4, tickText(axis, tick), `text-anchor="end"`),
      ];
    }),
    `<path d="M0,0V${PLOT.height}" stroke="#222"/>`,
    text(-PLOT.height / 2, -52, axis.label, `text-anchor="middle" transform="rotate(-90)"`),
  ];
}

interface Plane {
  readonly x: Axis;
  readonly y: Axis;
  readonly xScale: Scale;
  readonly yScale: Scale;
}

function curve(series: Series, index: number, { x, y, xScale, yScale }: Plane): string[] {
  const place = ([px, py]: readonly [number, number]) =>
    [fixed(xScale(px)), fixed(yScale(py))] as const;
  const visible = (point: readonly [number, number]) => fits(x, point[0]) && fits(y, point[1]);
  const path = line<readonly [number, number]>()
    .defined(visible)
    .x((point) => place(point)[0])
    .y((point) => place(point)[1])(series.points);
  const { stroke, mark } = styleOf(series, index);
  return [
    `<path d="${path ?? ""}" fill="none" ${stroke}/>`,
    ...series.points.filter(visible).map((point) => mark(...place(point))),
  ];
}

function legend(series: Series, index: number): string[] {
  const left = PLOT.width + RIGHT;
  const at = index * LINE + 8;
  const { stroke, mark } = styleOf(series, index);
  return [
    `<path d="M${left},${at}h${LEGEND_MARK}" ${stroke}/>`,
    mark(left + LEGEND_MARK / 2, at),
    text(left + LEGEND_MARK + 6, at + 4, series.name),
  ];
}

function styleOf({ color, mark, dashed }: Series, index: number) {
  const hue = COLORS[(color ?? index) % COLORS.length]!;
  const shape = symbol(MARKS[(mark ?? 0) % MARKS.length]!, 36)() ?? "";
  return {
    stroke: `stroke="${hue}" stroke-width="1.6"${dashed ? ` stroke-dasharray="6 4"` : ""}`,
    mark: (x: number, y: number) =>
      `<path d="${shape}" transform="translate(${x},${y})" fill="${hue}"/>`,
  };
}

function text(x: number, y: number, content: string, attributes = ""): string {
  return `<text x="${x}" y="${y}"${attributes && ` ${attributes}`}>${escaped(content)}</text>`;
}

/** Two digits after the point are a hundredth of a pixel. */
function fixed(value: number): number {
  return Number(value.toFixed(2));
}

function escaped(content: string): string {
  return content.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
}
