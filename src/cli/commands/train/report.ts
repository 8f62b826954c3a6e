/** What is told of a training when it is over. @module */
import { parameterCount, type PredictorShape } from "../../../butler/predictor/shape.ts";
import { lineCharts } from "../../../report/chart.ts";
import { MEASURED_BUDGET } from "../../../train/settings.ts";
import type { TrainResult } from "../../../train/train.ts";
import type { CliIo } from "../../io.ts";

/** What a predictor reached on the held-out windows. */
export type Summary = ReturnType<typeof summaryOf>;

/**
 * Sums a training up.
 *
 * @param share Parameters as a part of the model's.
 * @returns Nothing that differs from run to run: it is written in the predictor's file.
 */
export function summaryOf(result: TrainResult, shape: PredictorShape, share: number) {
  const { heads, curves } = result;
  const { numKvHeads } = shape.model;
  const mean = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const round = (value: number) => Number(value.toFixed(4));
  const layers = Array.from({ length: heads.length / numKvHeads }, (_, index) => {
    const of = heads.slice(index * numKvHeads, (index + 1) * numKvHeads);
    return {
      layer: index + 1,
      recall: round(mean(of.map(({ recall }) => recall))),
      mass: round(mean(of.map(({ mass }) => mass))),
      best_mass: round(mean(of.map(({ bestMass }) => bestMass))),
    };
  });
  return {
    fingerprint: shape.model.fingerprint,
    parameters: parameterCount(shape),
    share: Number(share.toPrecision(4)),
    recall: round(mean(heads.map(({ recall }) => recall))),
    mass: round(mean(heads.map(({ mass }) => mass))),
    best_mass: round(mean(heads.map(({ bestMass }) => bestMass))),
    start_recall: round(mean(curves.map(({ recalls }) => recalls[0]!))),
    layers,
  };
}

/** Says what came of it, or prints all of it as a line of JSON. */
export function report(
  json: boolean,
  io: CliIo,
  out: string,
  cache: string,
  { seconds: exact, curves, ...summary }: Summary & {
    readonly restless: readonly number[];
    readonly seconds: number;
    readonly curves: TrainResult["curves"];
  },
): void {
  const seconds = Number(exact.toFixed(1));
  if (json) {
    io.stdout(`${JSON.stringify({ out, ...summary, seconds, curves })}\n`);
    return;
  }
  io.stdout(
    `${out}: ${summary.parameters} parameters, ${(100 * summary.share).toFixed(2)} % of the ` +
      `model's; on held-out windows it finds ${
        (100 * summary.recall).toFixed(1)
      } % of the true top ` +
      `${MEASURED_BUDGET} rows and attends to ${
        (100 * summary.mass).toFixed(1)
      } % of the attention ` +
      `(at best ${(100 * summary.best_mass).toFixed(1)} %); ${seconds} s\n` +
      (summary.restless.length === 0
        ? ""
        : "restless layers, which choose at every step whatever the interval: " +
          `${summary.restless.join(", ")}\n`) +
      `${cache} can be deleted now\n`,
  );
}

/** Loss and recall by epoch, a line for each producer. */
export function picture(curves: TrainResult["curves"]): string {
  const lines = (
    pick: (curve: TrainResult["curves"][number]) => readonly number[],
    first: number,
  ) =>
    curves.map((curve, index) => ({
      name: `producer ${index}`,
      points: pick(curve).map((value, epoch) => [epoch + first, value] as const),
    }));
  return lineCharts([
    {
      title: "Loss of the windows of an epoch, as they were seen",
      x: { label: "epoch", scale: "linear" },
      y: { label: "loss", scale: "linear" },
      series: lines(({ losses }) => losses, 1),
    },
    {
      title: `Recall of the true top-${MEASURED_BUDGET} on held-out windows`,
      x: { label: "epochs", scale: "linear" },
      y: { label: "recall", scale: "linear" },
      series: lines(({ recalls }) => recalls, 0),
    },
  ]);
}
