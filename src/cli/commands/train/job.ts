/** What the steps of a training share. @module */
import type { PredictorShape } from "../../../butler/predictor/shape.ts";
import type { createEngineParts } from "../../../engine/create.ts";
import type { Kernels } from "../../../gpu/kernels.ts";
import type { RopeConfig } from "../../../model/types.ts";
import type { Samples } from "../../../train/samples.ts";
import type { TrainSettings } from "../../../train/settings.ts";
import type { CliIo } from "../../io.ts";
import type { TrainFlags } from "./flags.ts";

/** Makes the engine; tests put one in its place that they close. */
export type OpenParts = typeof createEngineParts;

/** One training, from the command line. */
export interface TrainJob {
  readonly flags: TrainFlags;
  readonly io: CliIo;
  readonly open: OpenParts;
  readonly kernels: Kernels;
  readonly shape: PredictorShape;
  /** Of the model, in contexts as long as a window. */
  readonly rope: RopeConfig;
  readonly settings: TrainSettings;
  readonly samples: Samples;
}
