/**
 * What `bench compare-llama-cpp` and its other side say to each other: one line of JSON each way
 * for every request.
 *
 * @module
 */

/** What the driver asks for. Tokens are ids. */
export type PeerRequest =
  | {
    readonly op: "open";
    readonly model: string;
    readonly context: number;
    readonly batch: number;
    readonly flashAttention: boolean;
  }
  /** Forgets everything and evaluates a prompt. */
  | { readonly op: "prefill"; readonly tokens: readonly number[] }
  /**
   * Evaluates a token and goes on greedily: `steps` evaluations, each timed. Afterwards the sequence
   * is as before.
   */
  | { readonly op: "decode"; readonly token: number; readonly steps: number };

/** What comes back. */
export interface PeerReply {
  readonly error?: string;
  /** Time of the whole request, in milliseconds. */
  readonly ms?: number;
  /** Processor time of the same. */
  readonly cpuMs?: number;
  /** Time of each decoding step. */
  readonly stepMs?: readonly number[];
  readonly tokens?: readonly number[];
  readonly gpu?: string | false;
  readonly devices?: readonly string[];
  readonly release?: string;
  readonly gpuLayers?: number;
  /** Lines of the library's own log that say where the layers are. */
  readonly log?: readonly string[];
}
