/** What is attended to step by step, as far as the host decides it. */
import { KV_DEFAULTS, type KvSettings } from "../../src/butler/settings.ts";
import { mostListRows, type SelectedView, SlotView } from "../../src/butler/slots.ts";
import { smallestSet, wishedSet } from "../../src/kv/working_set.ts";
import { assert } from "std-testing";

function settings(more: Partial<KvSettings> = {}): KvSettings {
  return {
    ...KV_DEFAULTS,
    policy: "loki",
    sinks: 4,
    window: 8,
    budget: { rows: 10 },
    neighbours: false,
    layers: [{ role: "dense", weights: [1, 1] }, { role: "selected", weights: [1, 1] }],
    ...more,
  };
}

/** What layer 1 uses and chooses in steps with n = from .. to rows, as rows when they were chosen. */
function history(view: SlotView, from: number, to: number): [used: number, chosen: number][] {
  const steps: [number, number][] = [];
  let chosen: SelectedView | null = null;
  for (let n = from; n <= to; n++) {
    const arriving: SelectedView | null = chosen;
    view.advance(n);
    const used = view.layer(1);
    assert.equal(view.layer(0).kind, "all");
    chosen = view.coming(1);
    // The start of the window tells when a selection was made.
    const madeAt = (start: number) => start + 8;
    steps.push([
      used.kind === "selected" ? madeAt(used.windowStart) : 0,
      view.choice(1) === null ? 0 : madeAt(view.choice(1)!.windowStart),
    ]);
    // What was chosen in the step before is fetched in this one.
    if (arriving !== null) view.use(1, arriving);
  }
  return steps;
}

Deno.test("selections are used at once, or two steps later but for the first", () => {
  const ahead = settings({ fetch: "ahead" });
  const at = (used: number, chosen: number) => [used, chosen];
  assert.deepEqual(history(new SlotView(settings(), true), 21, 25), [
    at(0, 0),
    at(0, 0),
    at(23, 23),
    at(24, 24),
    at(25, 25),
  ]);
  assert.deepEqual(history(new SlotView(ahead, true), 22, 28), [
    at(0, 0),
    at(23, 23),
    at(23, 24),
    at(23, 25),
    at(24, 26),
    at(25, 27),
    at(26, 28),
  ]);
  assert.deepEqual(history(new SlotView({ ...ahead, interval: 3 }, true), 22, 30), [
    at(0, 0),
    at(23, 23),
    at(23, 0),
    at(23, 0),
    at(23, 26),
    at(23, 0),
    at(26, 0),
    at(26, 29),
    at(26, 0),
  ]);
  // On the device as a whole there is nothing to fetch.
  assert.deepEqual(
    history(new SlotView(ahead), 22, 28),
    history(new SlotView(settings()), 22, 28),
  );
});

Deno.test("where there is room a window holds what comes until the next selection is used", () => {
  const window = (more: Partial<KvSettings>) => {
    const need = { settings: settings(more), maxRows: 1000 };
    assert.deepEqual(smallestSet(need).map(({ windowBlocks }) => windowBlocks), [2, 2]);
    return wishedSet(need)[1]!.windowBlocks;
  };
  assert.equal(window({ window: 31 }), 2);
  assert.equal(window({ window: 31, fetch: "ahead" }), 3);
  assert.equal(window({ window: 30, fetch: "ahead" }), 2);
  assert.equal(window({ window: 30, interval: 3 }), 2);
  assert.equal(window({ window: 30, interval: 3, fetch: "ahead" }), 3);
});

Deno.test("neighbours double the lists of policies that rank row by row, and no others", () => {
  const rows = (more: Partial<KvSettings>, below = false) =>
    mostListRows(settings({ neighbours: true, interval: 4, ...more }), 1000, below);
  assert.equal(rows({ neighbours: false }), 10);
  for (const policy of ["oracle", "loki", "tokenbutler"] as const) {
    assert.equal(rows({ policy }), 20);
    // The window, and three steps until the next selection.
    assert.equal(rows({ policy }, true), 31);
    assert.equal(new SlotView(settings({ policy, neighbours: true })).growth[1], 2);
  }
  for (const policy of ["quest", "h2o", "snapkv"] as const) {
    assert.equal(rows({ policy }), rows({ policy, neighbours: false }));
    assert.equal(new SlotView(settings({ policy, neighbours: true })).growth[1], 1);
  }
});
