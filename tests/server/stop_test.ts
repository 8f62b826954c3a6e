import { assert, fc } from "std-testing";
import { StopStrings } from "../../src/server/stop_strings.ts";
import { TokenText } from "../../src/server/token_text.ts";
import { END_ID, FakeTokenizer } from "./_fake.ts";
import { openFakeServer } from "./_server.ts";
import { eventually, only, postCompletion, streamCompletion, textOf } from "./_wire.ts";

const bytes = (text: string) => [...new TextEncoder().encode(text)];

/** The rule, without streaming: the text before the stop string that is complete first. */
function cutPlainly(text: string, stops: readonly string[]): string {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => stop !== "" && text.slice(0, end).endsWith(stop));
    const longest = Math.max(...found.map((stop) => stop.length));
    if (found.length > 0) return text.slice(0, end - longest);
  }
  return text;
}

Deno.test("StopStrings finds the same whatever way the text is cut, and leaks nothing", () => {
  const text = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 40 });
  const stop = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 5 });
  const stops = fc.array(stop, { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(text, stops, fc.array(fc.nat(5)), (text, stops, cuts) => {
      const matcher = new StopStrings(stops);
      let sent = "";
      let at = 0;
      for (const size of [...cuts, text.length]) {
        sent += matcher.push(text.slice(at, at + size));
        at += size;
        assert.ok(cutPlainly(text, stops).startsWith(sent));
      }
      sent += matcher.end();
      assert.equal(sent, cutPlainly(text, stops));
      assert.equal(matcher.stopped, stops.some((stop) => text.includes(stop)));
    }),
    { seed: 1, numRuns: 2000 },
  );
});

Deno.test("StopStrings holds back only what could still become a stop string", () => {
  const matcher = new StopStrings(["\n\nUser:"]);
  assert.equal(matcher.push("one\n"), "one");
  assert.equal(matcher.push("two"), "\ntwo");
  assert.equal(matcher.push("\n\nUse"), "");
  assert.equal(matcher.push("d"), "\n\nUsed");
});

Deno.test("TokenText never gives half a character and loses none", () => {
  const tokenizer = new FakeTokenizer();
  const stops = fc.array(fc.string({ unit: "grapheme", minLength: 1, maxLength: 2 }), {
    maxLength: 3,
  });
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 20 }), stops, (text, stops) => {
      const follower = new TokenText(tokenizer, {
        stopStrings: stops,
        skipSpecial: true,
        minTokens: 0,
      });
      follower.startAnswer([120]);
      let sent = "";
      const offsets: number[] = [];
      for (const byte of bytes(text)) {
        const piece = follower.push(byte, null);
        assert.ok(piece.text.isWellFormed());
        sent += piece.text;
        offsets.push(...piece.tokens.map((token) => token.offset));
      }
      const last = follower.end();
      sent += last.text;
      offsets.push(...last.tokens.map((token) => token.offset));
      assert.equal(sent, cutPlainly(text, stops));
      assert.ok(offsets.every((offset) => offset <= [...sent].length));
      if (!follower.stopped) assert.equal(offsets.length, bytes(text).length);
    }),
    { seed: 2, numRuns: 500 },
  );
});

Deno.test("TokenText drops an unfinished character at the end", () => {
  const text = new TokenText(new FakeTokenizer(), {
    stopStrings: [],
    skipSpecial: true,
    minTokens: 0,
  });
  text.startAnswer([120]);
  assert.equal(text.push(0xf0, null).text, "");
  assert.equal(text.push(0x9f, null).text, "");
  assert.equal(text.end().text, "");
});

Deno.test("POST /v1/completions ends at a stop string split over tokens and frees the sequence", async () => {
  // "STOP" comes as the tokens "ST" and "OP", then the engine would go on for long.
  await using server = await openFakeServer({ reply: [97, 261, 98, 261, 262, 99], stepMs: 1 });
  const body = { prompt: "x", stop: ["never", "STOP"], max_tokens: 200 };
  const answer = await postCompletion(server, body);
  assert.equal(only(answer.choices).text, "aSTb");
  assert.equal(only(answer.choices).finish_reason, "stop");
  assert.equal(answer.usage.completion_tokens, 5);
  const chunks = await streamCompletion(server, body);
  assert.equal(textOf(chunks), "aSTb");
  assert.ok(chunks.every((chunk) => !only(chunk.choices).text.includes("O")));
  await eventually(async () => (await server.engine.stats()).runningSequences === 0, 1000);
});

Deno.test("POST /v1/completions gives held-back text when no stop string came of it", async () => {
  await using server = await openFakeServer({ reply: [97, 261, END_ID] });
  const body = { prompt: "x", stop: "STOP" };
  assert.equal(only((await postCompletion(server, body)).choices).text, "aST");
  assert.equal(textOf(await streamCompletion(server, body)), "aST");
});

Deno.test("POST /v1/completions looks for stop strings only after min_tokens", async () => {
  await using server = await openFakeServer({ reply: bytes("a.b.c.") });
  const body = { prompt: "x", stop: ".", min_tokens: 3, max_tokens: 6 };
  assert.equal(only((await postCompletion(server, body)).choices).text, "a.b");
});

Deno.test("POST /v1/completions finds a stop string of several bytes a character", async () => {
  await using server = await openFakeServer();
  const body = { prompt: "x", stop: ["😀"], max_tokens: 50 };
  assert.equal(only((await postCompletion(server, body)).choices).text, "Hello, wörld ");
  assert.equal(textOf(await streamCompletion(server, body)), "Hello, wörld ");
});
