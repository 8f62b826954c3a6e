/** Files beside a model that policies need, and what is said where one is left aside. @module */
import type { BudgetTable } from "../butler/budget_table.ts";
import { CalibrationError } from "../butler/calibration/errors.ts";
import { type Calibration, findCalibration, readCalibration } from "../butler/calibration/file.ts";
import { PredictorError } from "../butler/predictor/errors.ts";
import { findPredictor, readPredictor } from "../butler/predictor/file.ts";
import type { Predictor } from "../butler/predictor/predictor.ts";
import type { ModelSource } from "../model/types.ts";
import type { EngineOptions } from "./types.ts";

/**
 * The file that `loki` needs: the named one, or the one beside the model.
 *
 * @throws {CalibrationError} If a named file cannot be used.
 */
export async function loadCalibration(
  options: EngineOptions,
  source: ModelSource,
): Promise<{ calibration: Calibration | null; notes: readonly string[] }> {
  const path = options.calibration ?? findCalibration(options.modelPath);
  if (path === null) return { calibration: null, notes: [] };
  const model = { ...source.config, fingerprint: await source.fingerprint() };
  try {
    return { calibration: readCalibration(path, model), notes: [] };
  } catch (error) {
    if (options.calibration !== null || !(error instanceof CalibrationError)) throw error;
    return { calibration: null, notes: [`calibration left aside: ${error.message}`] };
  }
}

/**
 * The file that `tokenbutler` needs: the named one, or the one beside the model.
 *
 * @throws {PredictorError} If a named file cannot be used.
 */
export async function loadPredictor(
  options: EngineOptions,
  source: ModelSource,
): Promise<{
  predictor: Predictor | null;
  budgetTable: BudgetTable | null;
  notes: readonly string[];
}> {
  const path = options.predictor ?? findPredictor(options.modelPath);
  if (path === null || path === false) return { predictor: null, budgetTable: null, notes: [] };
  const { numLayers, hiddenSize, numHeads, numKvHeads, headDim } = source.config;
  const fingerprint = await source.fingerprint();
  const model = { fingerprint, numLayers, hiddenSize, numHeads, numKvHeads, headDim };
  try {
    const most = options.maxParameters * source.numParameters;
    const { predictor, notes } = readPredictor(path, model, most);
    return { predictor, budgetTable: notes.budgets, notes: [] };
  } catch (error) {
    if (options.predictor !== null || !(error instanceof PredictorError)) throw error;
    return {
      predictor: null,
      budgetTable: null,
      notes: [`predictor left aside: ${error.message}`],
    };
  }
}
