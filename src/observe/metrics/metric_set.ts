/** A group of metrics with labels of its own, over prom-client. @module */
import { Counter, Gauge, Histogram, type Metric, Registry } from "prom-client";

/** Labels by name. */
export type Labels = Readonly<Record<string, string>>;

/** Makes metrics and writes them as one text. */
export class MetricSet {
  readonly #registry = new Registry();
  readonly #following: (Following | FollowingHistogram)[] = [];

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

  /** A counter whose number somebody else keeps. */
  followingCounter(name: string, help: string): Following {
    const counter = this.counter(name, help);
    return this.#follows(new Following((grown) => counter.inc(grown)));
  }

  /** The same with labels: a number for each of `series`, all of them on the page from the start. */
  followingCounters<Series extends string>(
    name: string,
    help: string,
    series: Readonly<Record<Series, Labels>>,
  ): Readonly<Record<Series, Following>> {
    const each = Object.entries<Labels>(series);
    const counter = this.counter(name, help, Object.keys(each[0]?.[1] ?? {}));
    const following = each.map(([key, labels]) => {
      counter.inc(labels, 0);
      const show = (grown: number) => counter.inc(labels, grown);
      return [key, this.#follows(new Following(show))] as const;
    });
    return Object.fromEntries(following) as Record<Series, Following>;
  }

  /** The same without a metric of its own. */
  followingNumber(): Following {
    return this.#follows(new Following());
  }

  /** A histogram whose counts somebody else keeps. */
  following(name: string, help: string, bounds: readonly number[]): FollowingHistogram {
    const histogram = new FollowingHistogram(name, help, bounds);
    // A registry asks a metric for its name and for `get()` alone.
    this.#registry.registerMetric(histogram as unknown as Metric);
    return this.#follows(histogram);
  }

  /** Whoever keeps numbers is another one from here on, who begins at 0. */
  beginAnew(): void {
    for (const following of this.#following) following.beginAnew();
  }

  #follows<T extends Following | FollowingHistogram>(following: T): T {
    this.#following.push(following);
    return following;
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
 * Lets a counter follow a number that somebody else counts and that only grows, until that one is
 * started again ({@linkcode Following.beginAnew}).
 */
export class Following {
  #seen = 0;
  #total = 0;

  /** @param show Told how much was added; absent: nothing shows the number. */
  constructor(private readonly show: (grown: number) => void = () => {}) {}

  /** All that was counted. */
  get total(): number {
    return this.#total;
  }

  beginAnew(): void {
    this.#seen = 0;
  }

  /** The number is now this. */
  set(value: number): void {
    const grown = value - this.#seen;
    if (grown <= 0) return;
    this.#seen = value;
    this.#total += grown;
    this.show(grown);
  }
}

/** The same for a histogram: counts of each bucket, the last above all bounds, and the sum of all. */
export class FollowingHistogram {
  #seen: readonly number[] = [];
  readonly #grown: number[];

  constructor(
    readonly name: string,
    private readonly help: string,
    private readonly bounds: readonly number[],
  ) {
    this.#grown = new Array<number>(bounds.length + 2).fill(0);
  }

  beginAnew(): void {
    this.#seen = [];
  }

  /** The numbers are now these. */
  set(counts: readonly number[], sum: number): void {
    const values = [...counts, sum];
    const before = this.#seen;
    values.forEach((value, at) => this.#grown[at]! += value - (before[at] ?? 0));
    this.#seen = values;
  }

  /** As prom-client writes it down. */
  get() {
    const { name, help } = this;
    let below = 0;
    const buckets = [...this.bounds, "+Inf"].map((le, at) => ({
      metricName: `${name}_bucket`,
      labels: { le },
      value: below += this.#grown[at]!,
    }));
    const values = [
      ...buckets,
      { metricName: `${name}_sum`, labels: {}, value: this.#grown.at(-1)! },
      { metricName: `${name}_count`, labels: {}, value: below },
    ];
    return Promise.resolve({ name, help, type: "histogram", aggregator: "sum", values });
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
