/** A group of metrics with labels of its own, over prom-client. @module */
import { Counter, Gauge, Histogram, Registry } from "prom-client";

/** Labels by name. */
export type Labels = Readonly<Record<string, string>>;

/** Makes metrics and writes them as one text. */
export class MetricSet {
  readonly #registry = new Registry();

  /** @param labels Every metric of the group has them. */
  constructor(labels: Labels = {}) {
    this.#registry.setDefaultLabels({ ...labels });
  }

  counter(name: string, help: string, labelNames: readonly string[] = []): Counter {
    return new Counter({ name, help, labelNames: [...labelNames], registers: [this.#registry] });
  }

  gauge(name: string, help: string, labelNames: readonly string[] = []): Gauge {
    return new Gauge({ name, help, labelNames: [...labelNames], registers: [this.#registry] });
  }

  histogram(
    name: string,
    help: string,
    buckets: readonly number[],
    labelNames: readonly string[] = [],
  ): Histogram {
    return new Histogram({
      name,
      help,
      buckets: [...buckets],
      labelNames: [...labelNames],
      registers: [this.#registry],
    });
  }

  /** The page of the group, in Prometheus' text format. */
  async text(): Promise<string> {
    return `${(await this.#registry.metrics()).trimEnd()}\n`;
  }

  get contentType(): string {
    return this.#registry.contentType;
  }
}

/**
 * Lets a counter follow a number that somebody else counts, and that begins anew when that one is
 * started again: the counter only grows.
 */
export class Following {
  #seen = 0;

  constructor(private readonly counter: Counter) {}

  /** The number is now this. */
  set(value: number): void {
    const grown = value >= this.#seen ? value - this.#seen : value;
    this.#seen = value;
    if (grown > 0) this.counter.inc(grown);
  }
}

/** 1, 2, 5, 10 ... up to `most`. */
export function oneTwoFive(most: number): number[] {
  const buckets: number[] = [];
  for (let power = 1; power <= most; power *= 10) {
    for (const step of [1, 2, 5]) if (step * power <= most) buckets.push(step * power);
  }
  return buckets;
}
