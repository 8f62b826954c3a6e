import { IMPORTANCE_PAIRS, STILL, type Turning } from "../../../src/butler/predictor/turns.ts";
import { DeviceTrainer } from "../../../src/train/device/trainer.ts";
import { startingState } from "../../../src/train/device/values.ts";
import { Draws } from "../../../src/train/draws.ts";
import { RATE_PARTS } from "../../../src/train/settings.ts";
import {
  lossAndGradients,
  LOSSES,
  type ProducerSizes,
  type ProducerValues,
  teacherOf,
} from "../../../src/train/objective.ts";
import { Rig } from "../../gpu/_rig.ts";
import { assert } from "std-testing";

function floats(draws: Draws, count: number, scale: number, mean = 0): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, () => mean + (2 * draws.next() - 1) * scale);
}

/** Every other list has pairs that turn, fast ones and slow ones. */
function someTurn({ served, numKvHeads }: ProducerSizes): Turning {
  const turns = Int32Array.from(
    { length: served * numKvHeads * IMPORTANCE_PAIRS },
    (_, i) => Math.floor(i / IMPORTANCE_PAIRS) % 2 === 0 ? STILL : i % 3 - 1,
  );
  return { turns, frequencies: [1, 0.07] };
}

function madeUp(sizes: ProducerSizes, draws: Draws) {
  const { hiddenSize, inner, served, numHeads, numKvHeads, headDim, rows, tokens } = sizes;
  const values: ProducerValues<Float32Array<ArrayBuffer>> = {
    up: floats(draws, inner * hiddenSize, 0.3),
    down: floats(draws, served * numHeads * 16 * inner, 1),
    keys: floats(draws, served * numKvHeads * headDim * 16, 0.5),
    gain: floats(draws, hiddenSize, 0.5, 1),
    bias: floats(draws, hiddenSize, 0.5),
  };
  const window = {
    // The first row has no candidate.
    positions: Uint32Array.from([3, ...draws.spread(10, tokens, rows - 1)]),
    hidden: floats(draws, rows * hiddenSize, 3),
    queries: floats(draws, served * numHeads * rows * headDim, 2),
    keys: floats(draws, served * numKvHeads * tokens * headDim, 1),
  };
  return { values, window, turning: someTurn(sizes) };
}

const SHAPES: readonly ProducerSizes[] = [
  {
    hiddenSize: 24,
    inner: 16,
    served: 2,
    numHeads: 6,
    numKvHeads: 2,
    headDim: 8,
    rows: 8,
    tokens: 72,
  },
  {
    hiddenSize: 40,
    inner: 8,
    served: 1,
    numHeads: 2,
    numKvHeads: 2,
    headDim: 24,
    rows: 16,
    tokens: 40,
  },
];

for (const loss of LOSSES) {
  for (const [index, sizes] of SHAPES.entries()) {
    for (const wide of [false, true]) {
      const form = wide ? "without subgroups" : "with subgroups";
      Deno.test(`a training step is the plain one: ${loss}, shape ${index}, ${form}`, async () => {
        const rig = await Rig.create();
        const subgroups = !wide && rig.subgroup > 0;
        const objective = { loss, sinks: 2, window: 5 };
        const options = {
          kernels: rig.kernels,
          lanes: subgroups ? rig.subgroup : 16,
          subgroups,
          sizes,
          objective,
          clip: 10,
          decay: 0.01,
          rateParts: RATE_PARTS,
        };
        const { values, turning, window } = madeUp(sizes, new Draws(index, 1));
        using trainer = await DeviceTrainer.create({ ...options, turning });
        trainer.load(startingState(sizes, values));
        using open = trainer.openWindow(window);
        trainer.step(open, 0);
        const teacher = teacherOf(sizes, window, objective);
        const plain = lossAndGradients(sizes, values, turning, window, teacher, objective);
        const found = await trainer.loss();
        assert.ok(Math.abs(found - plain.loss) < 2e-3 * plain.loss, `${found}, not ${plain.loss}`);
        const gradients = await trainer.gradients();
        for (const name of ["up", "down", "keys", "gain", "bias"] as const) {
          const wanted = plain.gradients[name];
          const most = wanted.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
          const off = wanted.reduce(
            (top, value, i) => Math.max(top, Math.abs(value - gradients[name][i]!)),
            0,
          );
          assert.ok(off < 3e-3 * most, `${name}: ${off} off at a largest of ${most}`);
        }
      });
    }
  }
}

Deno.test("steps of AdamW are the plain ones, with clipping and decay", async () => {
  const rig = await Rig.create();
  const sizes = SHAPES[0]!;
  const objective = { loss: "group" as const, sinks: 2, window: 5 };
  const [clip, decay, rate] = [0.05, 0.1, 0.01];
  const rateParts = { up: 0.5, down: 1, keys: 2, norm: 0.25 };
  const { values, turning, window } = madeUp(sizes, new Draws(3, 1));
  using trainer = await DeviceTrainer.create({
    kernels: rig.kernels,
    lanes: 8,
    subgroups: false,
    sizes,
    turning,
    objective,
    clip,
    decay,
    rateParts,
  });
  const start = startingState(sizes, values);
  trainer.load(start);
  using open = trainer.openWindow(window);
  const plain = Float64Array.from(start.values);
  const moments = new Float64Array(start.moments.length);
  const downAt = values.up.length;
  const decayEnd = downAt + values.down.length;
  const keysEnd = decayEnd + values.keys.length;
  const partAt = (i: number) => i < downAt ? 0.5 : i < decayEnd ? 1 : i < keysEnd ? 2 : 0.25;
  for (let step = 1; step <= 3; step++) {
    trainer.step(open, rate);
    const flat = startingState(sizes, await trainer.gradients()).values;
    const length = Math.hypot(...flat);
    assert.ok(length > clip);
    flat.forEach((value, i) => {
      const slope = value * clip / length;
      moments[2 * i] = 0.9 * moments[2 * i]! + 0.1 * slope;
      moments[2 * i + 1] = 0.999 * moments[2 * i + 1]! + 0.001 * slope * slope;
      const mean = moments[2 * i]! / (1 - 0.9 ** step);
      const square = moments[2 * i + 1]! / (1 - 0.999 ** step);
      plain[i]! -= rate * partAt(i) *
        (mean / (Math.sqrt(square) + 1e-8) + (i < decayEnd ? decay * plain[i]! : 0));
    });
  }
  const state = await trainer.state();
  assert.equal(state.steps, 3);
  const off = plain.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - state.values[i]!)),
    0,
  );
  assert.ok(off < 2e-4, `${off} off`);
});

Deno.test("a trainer goes on from its state to the same result, bit for bit", async () => {
  const rig = await Rig.create();
  const sizes = SHAPES[0]!;
  const { values, turning, window } = madeUp(sizes, new Draws(4, 1));
  const options = {
    kernels: rig.kernels,
    lanes: 8,
    subgroups: rig.subgroup === 8,
    sizes,
    turning,
    objective: { loss: "group" as const, sinks: 2, window: 5 },
    clip: 10,
    decay: 0.01,
    rateParts: RATE_PARTS,
  };
  const steps = async (trainer: DeviceTrainer, count: number) => {
    using open = trainer.openWindow(window);
    for (let i = 0; i < count; i++) trainer.step(open, 0.01);
    return await trainer.state();
  };
  using first = await DeviceTrainer.create(options);
  first.load(startingState(sizes, values));
  const whole = await steps(first, 6);
  using second = await DeviceTrainer.create(options);
  second.load(startingState(sizes, values));
  const half = await steps(second, 3);
  using third = await DeviceTrainer.create(options);
  third.load(half);
  assert.deepEqual(await steps(third, 3), whole);
});

Deno.test("a trainer and its windows take the room that they say", async () => {
  const rig = await Rig.create();
  const { device } = rig.kernels;
  const make = device.createBuffer;
  for (const sizes of SHAPES) {
    const { values, turning, window } = madeUp(sizes, new Draws(6, 1));
    let bytes = 0;
    device.createBuffer = function (descriptor) {
      // Uniforms are a few numbers each.
      if ((descriptor.usage & GPUBufferUsage.UNIFORM) === 0) bytes += descriptor.size;
      return make.call(this, descriptor);
    };
    try {
      using trainer = await DeviceTrainer.create({
        kernels: rig.kernels,
        lanes: 8,
        subgroups: false,
        sizes,
        turning,
        objective: { loss: "tail", sinks: 2, window: 5 },
        clip: 10,
        decay: 0.01,
        rateParts: RATE_PARTS,
      });
      trainer.load(startingState(sizes, values));
      // Sizes of buffers are multiples of 16.
      const near = (wanted: number) => bytes >= wanted && bytes < wanted + 20 * 16;
      assert.ok(near(DeviceTrainer.ownBytes(sizes)), `${bytes}`);
      bytes = 0;
      using open = trainer.openWindow(window);
      trainer.step(open, 0.01);
      await trainer.loss();
      assert.ok(near(DeviceTrainer.windowBytes(sizes)), `${bytes}`);
    } finally {
      device.createBuffer = make;
    }
  }
});
