/** Windows of a capture on the device, within a bound of memory. @module */
import type { CaptureFile } from "./capture_file.ts";
import { DeviceTrainer, type DeviceWindow } from "./device/trainer.ts";
import { TrainError } from "./errors.ts";
import type { ProducerSizes } from "./objective.ts";

/**
 * Windows that can stay on the device beside the one that is learnt from.
 *
 * @throws {TrainError} `no_room` if there is none for that one.
 */
export function keptWindows(sizes: ProducerSizes, memory: number): number {
  const each = DeviceTrainer.windowBytes(sizes);
  const free = memory - DeviceTrainer.ownBytes(sizes) - each;
  if (free >= 0) return Math.floor(free / each);
  throw new TrainError(
    "no_room",
    `training takes ${Math.ceil((memory - free) / 2 ** 20)} MiB at least: allow more with ` +
      "--memory, or take fewer --rows or --tokens",
  );
}

/** Windows on the device: as many as there is room for stay there. */
export class WindowPool implements Disposable {
  readonly #file: CaptureFile;
  readonly #producer: number;
  readonly #trainer: DeviceTrainer;
  readonly #kept = new Map<number, DeviceWindow>();
  readonly #room: number;

  /**
   * @param memory Bytes of the device that trainer and windows may take.
   * @throws {TrainError} `no_room`.
   */
  constructor(
    file: CaptureFile,
    memory: number,
    producer: number,
    sizes: ProducerSizes,
    trainer: DeviceTrainer,
  ) {
    this.#file = file;
    this.#producer = producer;
    this.#trainer = trainer;
    this.#room = keptWindows(sizes, memory);
  }

  /** A window; close it when its step is encoded. */
  open(index: number): DeviceWindow {
    const kept = this.#kept.get(index);
    if (kept !== undefined) return kept;
    const opened = this.#trainer.openWindow(this.#file.read(index, this.#producer));
    if (this.#kept.size < this.#room) this.#kept.set(index, opened);
    return opened;
  }

  /** Gives back one that has no room to stay. */
  close(window: DeviceWindow): void {
    if (![...this.#kept.values()].includes(window)) window[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    for (const window of this.#kept.values()) window[Symbol.dispose]();
  }
}
