import { assert } from "std-testing";
import { run } from "../cli/_process.ts";
import { type FuzzCase, runCases } from "./_cases.ts";
import { lineCases } from "./_lines.ts";
import { requestCases, sendGood } from "./_requests.ts";
import { type FuzzServer, openFuzzServer } from "./_server.ts";

const SEED = 1;
const COUNT = 300;

const KINDS: readonly (readonly [
  name: string,
  cases: (server: FuzzServer, seed: number, first: number, count: number) => Iterable<FuzzCase>,
])[] = [["requests", requestCases], ["lines", lineCases]];

Deno.test("spoiled requests are answered, fast and in the API's form, and harm nobody", async (t) => {
  await using server = await openFuzzServer();
  await sendGood(server);
  const before = await goodAnswer(server);
  for (const [name, cases] of KINDS) {
    await t.step(name, async () => {
      console.log(`${name}: seed ${SEED}, ${COUNT} of them`);
      const again = (index: number) =>
        `./run fuzz --only ${name} --seed ${SEED} --first ${index} --count 1`;
      const { refused, taken } = await runCases(cases(server, SEED, 0, COUNT), again);
      assert.ok(refused > COUNT / 4, `only ${refused} were refused`);
      assert.ok(taken > 0, "none was taken");
      assert.equal(await goodAnswer(server), before);
      assert.deepEqual(server.logged, []);
    });
  }
});

async function goodAnswer({ url, key }: FuzzServer): Promise<string> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ prompt: "Once upon a time", max_tokens: 8, temperature: 0 }),
  });
  const { choices } = await response.json() as { choices: { text: string }[] };
  return choices[0]!.text;
}

Deno.test("the task ends with its process, also where a server was in it", async () => {
  const { code, stdout, stderr } = await run(["fuzz", "--count", "3", "--only", "lines"]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^lines: \d+ refused, \d+ taken, /m);
});
