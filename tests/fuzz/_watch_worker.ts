/** Ends the process when a case takes so long that nothing else could end it. @module */
/// <reference lib="deno.worker" />

/** Far more than any case may take, on the busiest machine. */
const STUCK_MS = 20_000;

let timer: ReturnType<typeof setTimeout> | undefined;

/** Gets what is begun, or null when it is over. */
self.onmessage = ({ data }: MessageEvent<string | null>) => {
  clearTimeout(timer);
  if (data === null) return;
  timer = setTimeout(() => {
    console.error(`stuck for ${STUCK_MS / 1000} s: ${data}`);
    // Deno.exit() would end this worker alone.
    Deno.kill(Deno.pid, "SIGKILL");
  }, STUCK_MS);
};
