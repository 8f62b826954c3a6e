/** Several asynchronous sources as one. @module */

/**
 * Gives values in the order in which they come. Each source is at most one value ahead of the
 * reader. The first error ends the whole; what the other sources still do is then nobody's concern
 * here: whoever owns them stops them. So does `signal`, with its reason: a source that has nothing to
 * say any more, not even that it was stopped, keeps nobody waiting.
 */
export async function* merge<T>(
  sources: readonly AsyncIterator<T>[],
  signal?: AbortSignal,
): AsyncGenerator<T> {
  const arrived: { source: AsyncIterator<T>; result: IteratorResult<T> }[] = [];
  let failure: { error: unknown } | undefined;
  let wake = () => {};
  const advance = (source: AsyncIterator<T>) => {
    source.next().then((result) => {
      arrived.push({ source, result });
      wake();
    }, (error: unknown) => {
      failure ??= { error };
      wake();
    });
  };
  const stop = () => {
    failure ??= { error: signal?.reason };
    wake();
  };
  let live = sources.length;
  signal?.addEventListener("abort", stop);
  try {
    signal?.throwIfAborted();
    for (const source of sources) advance(source);
    while (live > 0) {
      // First, or sources that never pause would keep the error waiting.
      if (failure !== undefined) throw failure.error;
      const next = arrived.shift();
      if (next !== undefined && !next.result.done) {
        yield next.result.value;
        advance(next.source);
      } else if (next !== undefined) {
        live--;
      } else {
        await new Promise<void>((resolve) => wake = resolve);
      }
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    // A source that waits for its next value answers only after that: do not wait for it.
    for (const source of sources) source.return?.()?.catch(() => {});
  }
}
