/**
 * The decoder as a list of dispatches: embedding, layers, and the head that makes logits. Bind
 * groups are built once; what changes from step to step lies in buffers.
 *
 * @module
 */
import { dispatch } from "../gpu/kernels.ts";
import { EMBED_PARAMS } from "../gpu/ops/embed.ts";
import { NORM_PARAMS } from "../gpu/ops/rms_norm.ts";
import { paddedCols, rowVecs } from "../gpu/weight_layout.ts";
import { ModelFileError } from "../model/errors.ts";
import type { ModelSource, WeightTensor } from "../model/types.ts";
import {
  type ActivationBuffers,
  activationBuffers,
  compileForwardKernels,
  type ForwardKernels,
  type ForwardOptions,
} from "./forward_parts.ts";
import { Attention } from "./attention.ts";
import { Product } from "./product.ts";
import type { DeviceMatrix, WeightStore } from "./weights.ts";

interface Layer {
  readonly attentionNorm: GPUBindGroup;
  readonly qkv: readonly Product[];
  readonly attentionOutput: Product;
  readonly ffnNorm: GPUBindGroup;
  readonly ffn: readonly Product[];
  readonly ffnDown: Product;
}

/** Encodes the model. */
export class Forward {
  /** (maxLogitRows, vocabulary) f32 */
  readonly logits: GPUBuffer;

  readonly #options: ForwardOptions;
  readonly #kernels: ForwardKernels;
  readonly #layers: Layer[] = [];
  readonly #owned: (GPUBuffer | Product)[];
  readonly #buffers: ActivationBuffers;
  #embed: GPUBindGroup[] = [];
  #attention!: Attention;
  #outputNorm!: GPUBindGroup;
  #output!: Product;
  /** Whether products with one token do the norms between them. */
  #normsFused = true;

  private constructor(options: ForwardOptions, kernels: ForwardKernels) {
    this.#options = options;
    this.#kernels = kernels;
    this.#buffers = activationBuffers(options);
    this.#owned = Object.values(this.#buffers);
    this.logits = this.#buffers.logits;
  }

  /** Uploads the weights, compiles the kernels, builds the bind groups. */
  static async create(
    options: ForwardOptions,
    source: ModelSource,
    weights: WeightStore,
  ): Promise<Forward> {
    const embedding = requireTensor(source, "token_embd");
    const forward = new Forward(options, await compileForwardKernels(options, embedding.type));
    await forward.#build(source, weights);
    return forward;
  }

  async #build(source: ModelSource, weights: WeightStore): Promise<void> {
    const { kernels, plan, config, step } = this.#options;
    const { x, normed, squares, qkv, attended, gated, logits } = this.#buffers;
    const tensor = (name: string) => requireTensor(source, name);
    const own = <T extends GPUBuffer | Product>(thing: T): T => {
      this.#owned.push(thing);
      return thing;
    };
    const uniform = (label: string, words: Uint32Array<ArrayBuffer>) =>
      own(kernels.uniform(label, words));
    const product = async (options: Omit<Parameters<typeof Product.create>[2], "step">) =>
      own(await Product.create(kernels, plan, { ...options, step }));
    const matrix = (name: string) => weights.matrix(name, [tensor(name)]);

    const { headDim, numHeads, numKvHeads, hiddenSize, intermediateSize } = config;
    const normParams = uniform(
      "norm params",
      NORM_PARAMS.pack({
        stride: paddedCols(hiddenSize) / 4,
        width: hiddenSize,
        eps: config.rmsNormEps,
      }),
    );
    const gainOf = (name: string) => weights.vector(name, [tensor(name)]);
    const norm = (gain: GPUBuffer) =>
      kernels.bind(this.#kernels.norm, [x, gain, normed, normParams, step]);
    const normBefore = { squares, width: hiddenSize, eps: config.rmsNormEps };

    const embedding = await matrix("token_embd");
    this.#embed = this.#embedGroups(embedding, (words) => uniform("embed params", words));
    const headGains: GPUBuffer[] = [];
    const qkvRows = (numHeads + 2 * numKvHeads) * headDim;
    let nextGain = await gainOf("blk.0.attn_norm");
    for (let l = 0; l < config.numLayers; l++) {
      const name = (part: string) => `blk.${l}.${part}`;
      const attentionNorm = norm(nextGain);
      const qkvTensors = ["attn_q", "attn_k", "attn_v"].map((part) => tensor(name(part)));
      const bias = config.qkvBias
        ? await weights.vector(
          name("attn_qkv.bias"),
          ["attn_q.bias", "attn_k.bias", "attn_v.bias"].map((part) => tensor(name(part))),
        )
        : undefined;
      const qkvProducts: Product[] = [];
      const joined = weights.canJoin(qkvTensors) ? [qkvTensors] : qkvTensors.map((t) => [t]);
      let yOffset = 0;
      for (const group of joined) {
        const stacked = await weights.matrix(name("attn_qkv"), group);
        qkvProducts.push(
          await product({
            matrix: stacked,
            x: normed,
            y: qkv,
            yStride: qkvRows,
            yOffset,
            epilogue: "store",
            ...(bias === undefined ? {} : { bias }),
            ...(l === 0 ? {} : { normBefore }),
          }),
        );
        yOffset += stacked.rows;
      }
      if (config.qkNorm) {
        headGains.push(
          await weights.vector(
            name("attn_qk_norm"),
            ["attn_q_norm", "attn_k_norm"].map((part) => tensor(name(part))),
          ),
        );
      }
      const toHidden = (m: DeviceMatrix, from: GPUBuffer, xStride: number, gain?: GPUBuffer) => {
        this.#normsFused &&= m.parts.length === 1;
        return product({
          matrix: m,
          x: from,
          xStride,
          y: x,
          yStride: paddedCols(hiddenSize),
          epilogue: "add",
          ...(gain === undefined ? {} : { normAfter: { squares, gain, normed } }),
        });
      };
      const ffnGain = await gainOf(name("ffn_norm"));
      // Attention writes head after head: its rows have no padding.
      const attentionOutput = await toHidden(
        await matrix(name("attn_output")),
        attended,
        numHeads * headDim,
        ffnGain,
      );
      const ffnNorm = norm(ffnGain);
      const toGated = (m: DeviceMatrix, epilogue: "store" | "gated" | "swiglu") =>
        product({
          matrix: m,
          x: normed,
          y: gated,
          yStride: paddedCols(intermediateSize),
          epilogue,
          normBefore,
        });
      const gateUp = [tensor(name("ffn_gate")), tensor(name("ffn_up"))];
      const ffn = weights.canJoin(gateUp)
        ? [await toGated(await weights.matrix(name("ffn_gate_up"), gateUp), "swiglu")]
        : [
          await toGated(await matrix(name("ffn_gate")), "store"),
          await toGated(await matrix(name("ffn_up")), "gated"),
        ];
      const last = l === config.numLayers - 1;
      nextGain = await gainOf(last ? "output_norm" : `blk.${l + 1}.attn_norm`);
      const ffnDown = await toHidden(
        await matrix(name("ffn_down")),
        gated,
        paddedCols(intermediateSize),
        ...(last ? [] : [nextGain]),
      );
      this.#layers.push({
        attentionNorm,
        qkv: qkvProducts,
        attentionOutput,
        ffnNorm,
        ffn,
        ffnDown,
      });
    }
    this.#attention = await Attention.create({
      options: this.#options,
      activations: this.#buffers,
      headGains: (layer) => headGains[layer],
    });
    this.#outputNorm = norm(nextGain);
    this.#output = await product({
      matrix: config.tiedEmbeddings ? embedding : await matrix("output"),
      x: normed,
      y: logits,
      yStride: config.vocabSize,
      epilogue: "store",
    });
  }

  #embedGroups(
    embedding: DeviceMatrix,
    uniform: (words: Uint32Array<ArrayBuffer>) => GPUBuffer,
  ): GPUBindGroup[] {
    const { kernels, config, step, rows, lastTokens } = this.#options;
    return embedding.parts.map((part) => {
      const params = uniform(EMBED_PARAMS.pack({
        first_token: part.firstRow,
        num_tokens: part.rows,
        units: paddedCols(config.hiddenSize) / 8,
        row_vecs: rowVecs(embedding.type, embedding.cols),
        x_stride: paddedCols(config.hiddenSize) / 4,
      }));
      return kernels.bind(this.#kernels.embed, [
        part.buffer,
        rows,
        lastTokens,
        this.#buffers.x,
        params,
        step,
      ]);
    });
  }

  /** What it was made of. */
  get options(): ForwardOptions {
    return this.#options;
  }

  /** Attention of the layers. */
  get attention(): Attention {
    return this.#attention;
  }

  /** Buffers between the kernels of a step. */
  get activations(): ActivationBuffers {
    return this.#buffers;
  }

  /** Encodes the embedding of rows 0 .. numRows - 1 of the row table. */
  encodeInput(pass: GPUComputePassEncoder, numRows: number, stepOffset: number): void {
    for (const group of this.#embed) {
      dispatch(pass, this.#kernels.embed, group, numRows, stepOffset);
    }
  }

  /** Encodes a layer up to q, k and v, before their rotation. */
  encodeQkv(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    stepOffset: number,
  ): void {
    const { attentionNorm, qkv } = this.#layers[layer]!;
    const fused = this.#normsFused && numRows === 1;
    if (!fused || layer === 0) {
      dispatch(pass, this.#kernels.norm, attentionNorm, numRows, stepOffset);
    }
    for (const product of qkv) product.encode(pass, numRows, stepOffset, fused);
  }

  /** Encodes what follows a layer's attention. */
  encodeOutput(
    pass: GPUComputePassEncoder,
    layer: number,
    numRows: number,
    stepOffset: number,
  ): void {
    const { attentionOutput, ffnNorm, ffn, ffnDown } = this.#layers[layer]!;
    const fused = this.#normsFused && numRows === 1;
    attentionOutput.encode(pass, numRows, stepOffset, fused);
    if (!fused) dispatch(pass, this.#kernels.norm, ffnNorm, numRows, stepOffset);
    for (const product of ffn) product.encode(pass, numRows, stepOffset, fused);
    ffnDown.encode(pass, numRows, stepOffset, fused);
  }

  /** Encodes the head for `numRows` rows; the step's logits_row is the first of them. */
  encodeHead(pass: GPUComputePassEncoder, numRows: number, stepOffset: number): void {
    dispatch(pass, this.#kernels.norm, this.#outputNorm, numRows, stepOffset);
    this.#output.encode(pass, numRows, stepOffset);
  }

  [Symbol.dispose](): void {
    this.#attention[Symbol.dispose]();
    for (const thing of this.#owned) {
      if (thing instanceof Product) thing[Symbol.dispose]();
      else thing.destroy();
    }
  }
}

function requireTensor(source: ModelSource, name: string): WeightTensor {
  const found = source.tensors.get(name);
  if (found === undefined) {
    throw new ModelFileError("missing_tensor", source.path, `tensor ${name} is missing`);
  }
  return found;
}
