import { assert } from "std-testing";
import { withTestEngine } from "../server/_engine.ts";
import { postCompletion } from "../server/_wire.ts";
import { runCases } from "./_cases.ts";
import { requestCases } from "./_requests.ts";

const SEED = 1;
const COUNT = 300;

const open = withTestEngine();

Deno.test("spoiled requests are answered, fast and in the API's form, and harm nobody", async () => {
  console.log(`requests: seed ${SEED}, ${COUNT} of them`);
  await using server = await open();
  const good = { prompt: "Once upon a time", max_tokens: 8, temperature: 0 };
  const before = await textOf(good);
  const again = (index: number) =>
    `./run fuzz --only requests --seed ${SEED} --first ${index} --count 1`;
  const { refused } = await runCases(requestCases(server.url, SEED, 0, COUNT), again);
  assert.ok(refused > COUNT / 4, `only ${refused} were refused`);
  assert.equal(await textOf(good), before);
  assert.deepEqual(server.logged, []);

  async function textOf(body: object): Promise<string> {
    const { choices } = await postCompletion(server, body);
    return choices[0]!.text;
  }
});
