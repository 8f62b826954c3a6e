import { Results } from "../../src/eval/results.ts";
import { withFullDisk } from "../_full_disk.ts";
import { withFiles } from "../_model_files.ts";
import { assert } from "std-testing";

const ORIGIN = { evaluation: "ppl", device: "a", commit: "111111111111" };

Deno.test("figures go on under another commit, and name both", async () => {
  await withFiles({}, (folder) => {
    const path = `${folder}/out.json`;
    const first = new Results<{ value: number }>(path, ORIGIN, { "a.txt": "aa" });
    first.add({ value: 1 });
    const later = { ...ORIGIN, commit: "222222222222" };
    const open = () => new Results<{ value: number }>(path, later, { "b.txt": "bb" });
    // Who only reads them changes nothing.
    assert.equal(open().origin.commit, "111111111111");
    const second = open();
    second.add({ value: 2 });
    second.save();
    assert.equal(second.origin.commit, "111111111111, 222222222222");
    const { origin, sources, figures } = JSON.parse(Deno.readTextFileSync(path));
    assert.deepEqual(origin, { ...ORIGIN, commit: "111111111111, 222222222222" });
    assert.deepEqual(sources, { "a.txt": "aa", "b.txt": "bb" });
    assert.deepEqual(figures, [{ value: 1 }, { value: 2 }]);
    assert.equal(new Results(path, ORIGIN).origin.commit, origin.commit);
    return Promise.resolve();
  });
});

Deno.test("figures of something else, or none, are refused", async () => {
  await withFiles({ "bad.json": "{}", "cut.json": '{"origin": {' }, (folder) => {
    const path = `${folder}/out.json`;
    new Results(path, ORIGIN, { "a.txt": "aa" }).save();
    const cases: [() => unknown, RegExp][] = [
      [
        () => new Results(path, { ...ORIGIN, device: "b" }),
        /of another evaluation \(device is "a", not "b"\)/,
      ],
      [
        () => new Results(path, { ...ORIGIN, seed: 1 }),
        /of another evaluation \(seed is undefined, not 1\)/,
      ],
      [
        () => new Results(path, ORIGIN, { "b.txt": "bb", "a.txt": "cc" }),
        /has figures of another a\.txt with the same name/,
      ],
      [() => new Results(`${folder}/bad.json`, ORIGIN), /holds no results/],
      [() => new Results(`${folder}/cut.json`, ORIGIN), /holds no results/],
      [() => new Results(folder, ORIGIN), /--out: cannot read/],
    ];
    for (const [open, message] of cases) assert.throws(open, message, String(message));
    return Promise.resolve();
  });
});

Deno.test("what cannot be written leaves the file as it was, and nothing half-written", async () => {
  await withFiles({}, async (folder) => {
    const path = `${folder}/out.json`;
    new Results(path, ORIGIN).add({ value: 1 });
    const before = Deno.readTextFileSync(path);
    const results = new Results<{ value: number }>(path, ORIGIN);
    await withFullDisk(9, () => {
      assert.throws(() => results.add({ value: 2 }), /cannot write .*No space left on device/);
    });
    assert.equal(Deno.readTextFileSync(path), before);
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["out.json"]);
  });
});
