/** The kernels of a training. @module */
import { IMPORTANCE_PAIRS } from "../../butler/predictor/turns.ts";
import type { Kernels } from "../../gpu/kernels.ts";
import {
  trainActivateSpec,
  trainAdamwSpec,
  trainClipSpec,
  trainLossSpec,
  trainMatmulSpec,
  trainNormSlopeSpec,
  trainTeacherSpec,
  trainTurnSpec,
} from "../../gpu/ops/train.ts";
import type { Objective, ProducerSizes } from "../objective.ts";

/** What decides which kernels there are. */
export interface TrainKernelOptions {
  readonly kernels: Kernels;
  /** Lanes of a workgroup; one subgroup where `subgroups` is set. */
  readonly lanes: number;
  readonly subgroups: boolean;
  readonly sizes: ProducerSizes;
  readonly objective: Objective;
}

/** Compiled kernels by name. */
export type TrainKernels = Awaited<ReturnType<typeof compileAll>>;

/** Compiles them. */
export async function compileAll(
  { kernels, lanes, subgroups, sizes, objective }: TrainKernelOptions,
) {
  const list = { full: objective.loss === "full", lanes, subgroups };
  const group = sizes.numHeads / sizes.numKvHeads;
  return {
    whole: {
      NT: await kernels.compile(trainMatmulSpec("NT", lanes, false)),
      NN: await kernels.compile(trainMatmulSpec("NN", lanes, false)),
      TN: await kernels.compile(trainMatmulSpec("TN", lanes, false)),
    },
    causal: {
      NT: await kernels.compile(trainMatmulSpec("NT", lanes, true)),
      NN: await kernels.compile(trainMatmulSpec("NN", lanes, true)),
      TN: await kernels.compile(trainMatmulSpec("TN", lanes, true)),
    },
    teacher: await kernels.compile(trainTeacherSpec(list)),
    lossOf: await kernels.compile(trainLossSpec(list, group, objective.loss === "tail")),
    affine: await kernels.compile(trainActivateSpec("affine", lanes)),
    silu: await kernels.compile(trainActivateSpec("silu", lanes)),
    siluSlope: await kernels.compile(trainActivateSpec("silu_slope", lanes)),
    turn: await kernels.compile(trainTurnSpec(false, group, IMPORTANCE_PAIRS, lanes)),
    turnBack: await kernels.compile(trainTurnSpec(true, group, IMPORTANCE_PAIRS, lanes)),
    normSlope: await kernels.compile(trainNormSlopeSpec(lanes)),
    clipPart: await kernels.compile(trainClipSpec(false, lanes, subgroups)),
    clipWhole: await kernels.compile(trainClipSpec(true, lanes, subgroups)),
    adamw: await kernels.compile(trainAdamwSpec(lanes)),
  };
}
