/** Files that lie beside the weights of a model and are none of them. @module */

/** What the `loki` policy needs; made by `calibrate`. */
export const CALIBRATION_NAME = "loki.safetensors";

/** What the `tokenbutler` policy needs; made by `train`. */
export const PREDICTOR_NAME = "butler.safetensors";

/** Names that a folder of weights may hold without being asked for tensors of the model. */
export const SIDE_FILES: readonly string[] = [CALIBRATION_NAME, PREDICTOR_NAME];
