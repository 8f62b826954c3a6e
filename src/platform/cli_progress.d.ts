/** The part of cli-progress (which has no types of its own) that `cli.ts` uses. @module */

interface BarOptions {
  readonly format: string;
  readonly stream: { write(text: string): boolean };
  readonly clearOnComplete: boolean;
  readonly hideCursor: boolean;
  readonly barsize: number;
  /** Redraws a second at most. */
  readonly fps: number;
}

/** Values of the format's own names. */
type Payload = Readonly<Record<string, string>>;

interface Preset {
  readonly barCompleteChar: string;
  readonly barIncompleteChar: string;
}

declare const cliProgress: {
  readonly SingleBar: new (options: BarOptions, preset: Preset) => {
    start(total: number, startValue: number, payload: Payload): void;
    update(current: number, payload: Payload): void;
    stop(): void;
  };
  readonly Presets: { readonly shades_classic: Preset };
};
export default cliProgress;
