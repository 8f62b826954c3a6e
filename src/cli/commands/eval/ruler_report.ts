/** How `eval ruler` tells its results. @module */
import { caseName } from "../../../eval/ppl.ts";
import type { Results } from "../../../eval/results.ts";
import type { RulerTask } from "../../../eval/ruler/tasks.ts";
import { lineCharts } from "../../../report/chart.ts";
import type { CliIo } from "../../io.ts";
import { type AnswerFigure, isAsked, scoreOf } from "./answers.ts";
import { originLine } from "./common.ts";
import { writePicture } from "../../outputs.ts";

/** What was answered in a case. */
export interface RulerFigure extends AnswerFigure {
  readonly task: string;
  readonly tokens: number;
}

/** What decides on the form. */
export interface RulerReport {
  readonly json: boolean;
  readonly svg: string | null;
  readonly samples: number;
}

function exactOf({ answers }: RulerFigure): number {
  return answers.filter((each) => each?.score === 1).length;
}

/** Prints a table for each length and number of rows, or JSON, and writes the picture. */
export function printRuler(
  settings: RulerReport,
  io: CliIo,
  results: Results<RulerFigure>,
  tasks: readonly RulerTask[],
): void {
  const { origin } = results;
  const figures = results.figures.filter((figure) => isAsked(figure, settings.samples));
  if (settings.json) {
    const lines = figures.map((figure) => ({
      ...figure,
      score: scoreOf(figure),
      exact: exactOf(figure),
    }));
    io.stdout(`${JSON.stringify({ origin, figures: lines })}\n`);
  } else {
    const lengths = [...new Set(figures.map(({ tokens }) => tokens))];
    for (const tokens of lengths) {
      const here = figures.filter((figure) => figure.tokens === tokens);
      const dense = here.filter(({ total }) => total === null);
      const totals = [...new Set(here.flatMap(({ total }) => total ?? []))];
      io.stdout(`${tokens} tokens: score (exact answers of ${settings.samples})\n`);
      for (const total of totals.length === 0 ? [null] : totals) {
        const sparse = here.filter((figure) => figure.total === total && total !== null);
        const names = [...new Set(sparse.map(caseName))];
        const columns = [
          "dense",
          ...names.map((name) => name.replace(" (same B for all heads)", ", same B")),
        ];
        const width = Math.max(12, ...columns.map((column) => column.length + 2));
        const row = (name: string, cells: readonly string[]) =>
          io.stdout(`  ${name.padEnd(16)}${cells.map((text) => text.padStart(width)).join("")}\n`);
        row(total === null ? "" : `${total} rows`, columns);
        const cell = (figure: RulerFigure | undefined) =>
          figure === undefined || figure.answers.length === 0
            ? "-"
            : `${(100 * scoreOf(figure)).toFixed(1)} (${exactOf(figure)})`;
        const compared: string[] = [];
        for (const { name } of tasks) {
          const own = sparse.filter(({ task }) => task === name);
          if (own.length > 0) compared.push(name);
          row(name, [
            cell(dense.find(({ task }) => task === name)),
            ...names.map((of) => cell(own.find((figure) => caseName(figure) === of))),
          ]);
        }
        const together = (of: readonly RulerFigure[]) => {
          const counted = of.filter(({ task }) => compared.includes(task));
          // Over fewer tasks it is no comparison: an earlier run asked this policy less.
          if (counted.length < compared.length) return "-";
          const score = counted.reduce((sum, figure) => sum + scoreOf(figure), 0) /
            counted.length;
          const exact = counted.reduce((sum, figure) => sum + exactOf(figure), 0);
          return `${(100 * score).toFixed(1)} (${exact})`;
        };
        if (compared.length > 0) {
          row(`${compared.length} compared`, [
            together(dense),
            ...names.map((of) => together(sparse.filter((figure) => caseName(figure) === of))),
          ]);
        }
      }
    }
    io.stdout(originLine(origin));
  }
  if (settings.svg !== null) writePicture(settings.svg, picture(figures));
}

function picture(figures: readonly RulerFigure[]): string {
  const lengths = [...new Set(figures.map(({ tokens }) => tokens))];
  return lineCharts(
    lengths.map((tokens) => {
      const here = figures.filter((figure) => figure.tokens === tokens && figure.total !== null);
      const names = [...new Set(here.map(caseName))];
      const tasksAt = (rows: number) =>
        new Set(here.filter(({ total }) => total === rows).map(({ task }) => task)).size;
      return {
        title: `Score of the tasks that dense attention can do, ${tokens} tokens`,
        x: { label: "rows, sinks and window included", scale: "log2" as const },
        y: { label: "score", scale: "linear" as const },
        series: names.map((name) => {
          const own = here.filter((figure) => caseName(figure) === name);
          const totals = [...new Set(own.map(({ total }) => total!))].sort((a, b) => a - b);
          return {
            name,
            points: totals.flatMap((total) => {
              const some = own.filter((figure) => figure.total === total);
              if (some.length < tasksAt(total)) return [];
              const sum = some.reduce((score, figure) => score + scoreOf(figure), 0);
              return [[total, sum / some.length] as const];
            }),
          };
        }),
      };
    }).filter(({ series }) => series.some(({ points }) => points.length > 0)),
  );
}
