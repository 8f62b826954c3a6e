/** `eval ppl`: perplexity under each policy. @module */
import { cutWindows } from "../../../butler/calibration/windows.ts";
import { type KvSettings, KvSettingsError, POLICY_NAMES } from "../../../butler/settings.ts";
import { createEngineParts, type EngineParts } from "../../../engine/create.ts";
import { kvBytesPerToken } from "../../../kv/device_tier.ts";
import { openModel } from "../../../model/open.ts";
import { DEFAULT_CACHE, DEFAULT_TIERS } from "../../../engine/types.ts";
import {
  caseName,
  type PplCase,
  pplCases,
  type PplFigure,
  sameCase,
  settingsOfCase,
  timesDense,
} from "../../../eval/ppl.ts";
import { Results } from "../../../eval/results.ts";
import { rowsAreIndependent, RowScorer } from "../../../eval/rows.ts";
import { lineCharts } from "../../../report/chart.ts";
import { commit } from "../../../report/commit.ts";
import { splitText } from "../../../train/samples.ts";
import { CommandError, defineCommand } from "../../command.ts";
import { listFlag, type Settings, switchFlag, UsageError, valueFlag } from "../../flags.ts";
import { readTextFile } from "../../inputs.ts";
import { type CliIo, EXIT } from "../../io.ts";
import { engineFlags, modelPath } from "../../model_flags.ts";
import { timedBar } from "../../progress.ts";
import { openTextSide } from "../../text_side.ts";
import { integer, oneOf, text, wordList } from "../../values.ts";

const group = "Evaluation";
const { model, kernel, kvType, calibration, predictor } = engineFlags;

const flags = {
  text: listFlag({ group, help: "a UTF-8 file", placeholder: "FILE", short: "f", schema: text }),
  part: valueFlag({
    group,
    help: "which part of each text: unseen, its last twentieth, which train never sees; or all",
    placeholder: "PART",
    schema: oneOf(["unseen", "all"]),
    fallback: "unseen" as const,
  }),
  policies: valueFlag({
    group,
    help: "policies to compare with dense attention",
    placeholder: "NAME,NAME",
    schema: wordList(POLICY_NAMES),
    fallback: POLICY_NAMES.filter((name) => name !== "dense"),
    fallbackText: "all",
  }),
  totals: valueFlag({
    group,
    help: "rows that a KV head attends to in the mean, sinks and window included",
    placeholder: "N,N",
    schema: text,
    fallback: "64,128,256,512",
  }),
  intervals: valueFlag({
    group,
    help: "steps from one selection to the next, with neighbours above 1",
    placeholder: "N,N",
    schema: text,
    fallback: "1",
  }),
  windows: valueFlag({
    group,
    help: "windows of each text",
    placeholder: "N",
    schema: integer(1, 1e6),
    fallback: 4,
  }),
  tokens: valueFlag({
    group,
    help: "tokens of a window: the first half is prefilled, the rest is scored row by row",
    placeholder: "N",
    schema: integer(16, 2 ** 20),
    fallback: 2048,
  }),
  sinks: valueFlag({
    group,
    help: "sinks",
    placeholder: "N",
    schema: integer(0, 4096),
    fallback: 4,
  }),
  window: valueFlag({
    group,
    help: "most recent rows",
    placeholder: "N",
    schema: integer(1, 65_536),
    fallback: 32,
  }),
  batch: valueFlag({
    group,
    help: "rows of a window that are decoded in one pass",
    placeholder: "N",
    schema: integer(1, 512),
    fallback: 64,
  }),
  out: valueFlag({
    group: "Output",
    help: "JSON file for the figures; what is in it already is not measured again",
    placeholder: "FILE",
    short: "o",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
  svg: valueFlag({
    group: "Output",
    help: "file for a picture: quality by rows, a line for each policy",
    placeholder: "FILE",
    schema: text,
    fallback: null,
    fallbackText: "none",
  }),
  json: switchFlag({ group: "Output", help: "prints the figures as one line of JSON" }),
  model,
  kvType,
  calibration,
  predictor,
  kernel,
} as const;

/** Windows that have room at the same time. */
const SEQUENCES = 8;

type Flags = Settings<typeof flags>;

/** Makes the engine; tests put one in its place that they close. */
export type OpenParts = typeof createEngineParts;

/** The command, over a way to make an engine in this isolate. */
export function pplCommand(open: OpenParts) {
  return defineCommand({
    name: "eval ppl",
    summary: "perplexity of a text by policy and rows, as a multiple of dense attention's",
    usage: ["eval ppl --text FILE [--text FILE ...] [flags]"],
    notes: [
      "The first half of each window is prefilled under dense attention, once for all policies that " +
      "choose by the keys alone. All policies have the same number of rows; each spends them by its " +
      "own rule (quest: pages of 16, no sinks or window of its own; streaming: sinks and window).",
      "tokenbutler is measured with the predictor's table of budgets, and with the same B for all " +
      "heads.",
    ],
    flags,
    run: (settings, io) => run(settings, io, open),
  });
}

interface TextWindows {
  readonly name: string;
  readonly windows: readonly (readonly number[])[];
}

async function run(settings: Flags, io: CliIo, open: OpenParts): Promise<number> {
  if (settings.text.length === 0) throw new UsageError("--text is needed");
  const totals = numbers("--totals", settings.totals);
  const intervals = numbers("--intervals", settings.intervals);
  const least = settings.sinks + settings.window;
  if (totals.some((total) => total < least)) {
    throw new UsageError(`--totals must be at least ${least}, the sinks and the window`);
  }
  const path = modelPath(settings);
  const texts = await readWindows(settings, path);
  const parts = await openParts(settings, open, path);
  try {
    const { info } = parts;
    const { canProject, canPredict, budgetTable } = info.kv;
    const situation = { fits: true, canProject, canPredict, budgetTable };
    const rows = { sinks: settings.sinks, window: settings.window };
    const cases: { of: PplCase; settings: KvSettings }[] = [];
    for (const of of pplCases(settings.policies, totals, intervals, budgetTable !== null)) {
      try {
        cases.push({ of, settings: settingsOfCase(of, rows, info.model, situation) });
      } catch (error) {
        if (!(error instanceof KvSettingsError)) throw error;
        throw new CommandError(`${of.policy}: ${error.message}`);
      }
    }
    const results = new Results<PplFigure>(settings.out, {
      evaluation: "ppl",
      device: info.adapter.description,
      model: info.model.name,
      fingerprint: info.model.fingerprint,
      kv: info.kv.type,
      predictor: await digestOf(settings.predictor, path, "butler.safetensors"),
      calibration: await digestOf(settings.calibration, path, "loki.safetensors"),
      context: settings.tokens,
      sinks: settings.sinks,
      window: settings.window,
      part: settings.part,
      windows: settings.windows,
      commit: commit(),
    });
    await measure(parts, settings, io, texts, cases, results);
    print(settings, io, results);
    return EXIT.ok;
  } finally {
    parts.dispose();
  }
}

async function measure(
  parts: EngineParts,
  settings: Flags,
  io: CliIo,
  texts: readonly TextWindows[],
  cases: readonly { of: PplCase; settings: KvSettings }[],
  results: Results<PplFigure>,
): Promise<void> {
  const prefilled = settings.tokens >> 1;
  const scorer = new RowScorer(parts, settings.tokens);
  const isOpen = (name: string, of: PplCase) =>
    !results.figures.some((figure) => figure.text === name && sameCase(figure, of));
  const open = texts.map(({ name }) => cases.filter(({ of }) => isOpen(name, of)));
  const total = texts.reduce((sum, { windows }, i) => sum + windows.length * open[i]!.length, 0);
  const bar = timedBar(io, "Measuring", Math.max(1, total));
  let done = 0;
  try {
    for (const [index, { name, windows }] of texts.entries()) {
      const add = (of: PplCase, nll: readonly number[]) =>
        results.add({
          ...of,
          text: name,
          windows: windows.length,
          rows: nll.length,
          nll: nll.reduce((sum, value) => sum + value, 0) / nll.length,
        });
      const apart = open[index]!.filter((entry) => rowsAreIndependent(entry.settings));
      const nll = apart.map((): number[] => []);
      for (const ids of windows) {
        // All of them over one prefill.
        for (const [i, entry] of apart.entries()) {
          const [scores] = await scorer.score([ids], prefilled, entry.settings);
          nll[i]!.push(...scores!);
          bar.update(++done);
        }
      }
      apart.forEach(({ of }, i) => add(of, nll[i]!));
      for (const entry of open[index]!.filter((other) => !apart.includes(other))) {
        const scores = await scorer.score(windows, prefilled, entry.settings);
        add(entry.of, scores.flat());
        bar.update(done += windows.length);
      }
    }
  } finally {
    bar.stop();
  }
}

async function readWindows(settings: Flags, path: string): Promise<TextWindows[]> {
  const { tokenizer } = await openTextSide(path, "text");
  if (tokenizer === undefined) {
    throw new CommandError("this model has no tokenizer: it cannot read the text");
  }
  const encode = (piece: string) => tokenizer.encode(piece, { parseSpecial: false, addBos: false });
  const bos = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : [];
  const { tokens, windows: count, part } = settings;
  return settings.text.map((file) => {
    const whole = readTextFile(file, "--text");
    const body = part === "all" ? whole : splitText(whole).unseen;
    const windows = cutWindows([body], encode, bos, { tokens: count * tokens, context: tokens })
      .filter((ids) => ids.length === tokens);
    if (windows.length === 0) {
      throw new CommandError(
        `${file}: its ${
          part === "all" ? "" : "last twentieth "
        }has no window of ${tokens} tokens: ` +
          "take --part all if training did not see it, or fewer --tokens",
      );
    }
    return { name: file.replace(/^.*[/\\]/, ""), windows };
  });
}

async function openParts(settings: Flags, open: OpenParts, path: string): Promise<EngineParts> {
  const { tokens, batch } = settings;
  const parts = await open({
    modelPath: path,
    contextLength: tokens,
    maxSequences: batch,
    kvType: settings.kvType,
    prefillChunk: Math.min(256, tokens),
    ...DEFAULT_CACHE,
    // Slots that show the same rows need no room of their own.
    tiers: {
      ...DEFAULT_TIERS,
      prefixCache: false,
      deviceBytes: SEQUENCES * (tokens + 64) * await bytesPerToken(path, settings.kvType),
    },
    calibration: settings.calibration,
    predictor: settings.predictor,
    kernelOverrides: Object.fromEntries(settings.kernel),
  }, () => {});
  if (parts.info.contextLength >= tokens) return parts;
  parts.dispose();
  throw new CommandError(`memory allows windows of ${parts.info.contextLength} tokens: take fewer`);
}

async function bytesPerToken(path: string, kvType: "f16" | "f32"): Promise<number> {
  const source = await openModel(path);
  source.close();
  return kvBytesPerToken(source.config, kvType);
}

async function digestOf(
  named: string | null,
  modelFile: string,
  beside: string,
): Promise<string | null> {
  const path = named ?? modelFile.replace(/[^/\\]*$/, beside);
  try {
    const bytes = await crypto.subtle.digest("SHA-256", await Deno.readFile(path));
    return new Uint8Array(bytes).toHex().slice(0, 12);
  } catch {
    return null;
  }
}

function print(settings: Flags, io: CliIo, { figures, origin }: Results<PplFigure>): void {
  if (settings.json) io.stdout(`${JSON.stringify({ origin, figures })}\n`);
  else {
    for (const name of new Set(figures.map(({ text }) => text))) {
      const of = figures.filter(({ text }) => text === name);
      const dense = of.find(({ policy }) => policy === "dense");
      io.stdout(
        `${name}: ${of[0]!.windows} windows, ${of[0]!.rows} rows; perplexity of dense attention ` +
          `${dense === undefined ? "unknown" : Math.exp(dense.nll).toFixed(3)}; multiples of it:\n`,
      );
      const totals = [...new Set(of.flatMap(({ total }) => total ?? []))].sort((a, b) => a - b);
      const names = [...new Set(of.filter(({ total }) => total !== null).map(caseName))];
      const width = Math.max(...names.map((text) => text.length), 8);
      io.stdout(
        `  ${"rows".padEnd(width)} ${totals.map((total) => String(total).padStart(8)).join("")}\n`,
      );
      for (const line of names) {
        const cells = totals.map((total) => {
          const figure = of.find((one) => one.total === total && caseName(one) === line);
          const times = figure === undefined ? null : timesDense(figure, figures);
          return (times === null ? "-" : times.toFixed(4)).padStart(8);
        });
        io.stdout(`  ${line.padEnd(width)} ${cells.join("")}\n`);
      }
    }
    const where = Object.entries(origin).map(([name, value]) => `${name} ${value}`).join(", ");
    io.stdout(`${where}\n`);
  }
  if (settings.svg !== null) Deno.writeTextFileSync(settings.svg, picture(figures));
}

function picture(figures: readonly PplFigure[]): string {
  const texts = [...new Set(figures.map(({ text }) => text))];
  return lineCharts(texts.map((name) => {
    const of = figures.filter(({ text, total }) => text === name && total !== null);
    const names = [...new Set(of.map(caseName))];
    return {
      title: `Perplexity over that of dense attention: ${name}`,
      x: { label: "rows, sinks and window included", scale: "log2" },
      y: { label: "times dense", scale: "log10", format: (value: number) => value.toFixed(2) },
      series: names.map((line) => ({
        name: line,
        points: of.filter((figure) => caseName(figure) === line)
          .map((figure) => [figure.total!, timesDense(figure, figures)!] as const)
          .sort(([a], [b]) => a - b),
      })),
    };
  }));
}

function numbers(flag: string, list: string): number[] {
  if (!/^\d{1,7}(,\d{1,7})*$/.test(list)) {
    throw new UsageError(`${flag} wants whole numbers with commas between them`);
  }
  return list.split(",").map(Number);
}

export const command = pplCommand(createEngineParts);
