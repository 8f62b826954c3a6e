import { assert } from "std-testing";
import { openModel } from "../../src/model/open.ts";
import { loadTokenizer } from "../../src/tokenizer/load.ts";
import { runCases } from "./_cases.ts";
import { FILE_TARGETS, fileCases } from "./_files.ts";

/** `./run fuzz` takes another one each time, and many more files. */
const SEED = 1;
const COUNT = 150;
const TINY = new URL("../data/tiny/llama31-bf16", import.meta.url).pathname;

for (const make of FILE_TARGETS) {
  Deno.test(`${make.name}: a spoiled file is refused by name, fast and cheaply`, async () => {
    const target = make();
    console.log(`${target.name}: seed ${SEED}, ${COUNT} files`);
    const folder = await Deno.makeTempDir();
    try {
      target.prepare?.(folder);
      for (const bytes of target.good) {
        assert.ok(await target.open(folder, bytes), "what is not spoiled must be taken");
      }
      const again = (index: number) =>
        `./run fuzz --only ${target.name} --seed ${SEED} --first ${index} --count 1`;
      const { refused, taken } = await runCases(fileCases(target, folder, SEED, 0, COUNT), again);
      assert.ok(refused > COUNT / 20, `only ${refused} were refused`);
      assert.ok(taken > 0, "none was taken");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("a tokenizer that would break on text is refused when it is loaded", async () => {
  const source = JSON.parse(await Deno.readTextFile(`${TINY}/tokenizer.json`));
  const [split] = source.pre_tokenizer.pretokenizers;
  for (const behavior of [0.5, {}, [1]]) {
    const folder = await Deno.makeTempDir();
    try {
      for await (const { name } of Deno.readDir(TINY)) {
        await Deno.copyFile(`${TINY}/${name}`, `${folder}/${name}`);
      }
      const pretokenizers = [
        { ...split, behavior },
        ...source.pre_tokenizer.pretokenizers.slice(1),
      ];
      const spoiled = { ...source, pre_tokenizer: { ...source.pre_tokenizer, pretokenizers } };
      await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(spoiled));
      const model = await openModel(folder);
      try {
        assert.throws(
          () => loadTokenizer(model.tokenizer!, folder, model.config.vocabSize),
          { name: "ModelFileError", code: "malformed" },
        );
      } finally {
        model.close();
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  }
});
