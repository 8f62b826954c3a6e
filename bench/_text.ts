/** Text that benchmarks feed to a model. @module */
import text from "./data/moby_dick.json" with { type: "json" };

/** The first chapters of Moby-Dick: about 4,500 tokens. */
export const BENCH_TEXT: string = text.paragraphs.join("\n\n");
