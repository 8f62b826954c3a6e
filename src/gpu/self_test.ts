/**
 * A short test of the kernels on the adapter at hand, for `doctor`: each kind of kernel runs on a
 * few numbers and is compared with plain arithmetic. It finds drivers that compile wrongly, lose
 * small half-precision numbers or need another variant.
 *
 * @module
 */
import type { Kernels } from "./kernels.ts";
import type { KernelPlan } from "./plan.ts";
import { SELF_CHECKS } from "./self_test_checks.ts";
import { Scratch } from "./scratch.ts";

/** What one check found. */
export interface SelfTestResult {
  readonly name: string;
  readonly ok: boolean;
  /** Largest error, as a part of the size of the values; NaN if the check did not get so far. */
  readonly maxError: number;
  readonly ms: number;
  /** For people: the error found, or why the check failed. */
  readonly detail: string;
}

/**
 * Runs the checks. A check that throws counts as failed and does not keep the others from running.
 *
 * @param plan The variants to test.
 * @param budgetMs After this time, what is left is passed over; the last result says so. Compiling
 * takes most of it the first time.
 */
export async function selfTest(
  kernels: Kernels,
  plan: KernelPlan,
  budgetMs = 1000,
): Promise<SelfTestResult[]> {
  const results: SelfTestResult[] = [];
  const began = performance.now();
  for (const [index, check] of SELF_CHECKS.entries()) {
    const start = performance.now();
    if (start - began > budgetMs) {
      const left = SELF_CHECKS.slice(index).map(({ name }) => name).join(", ");
      results.push({
        name: "not tested",
        ok: true,
        maxError: NaN,
        ms: 0,
        detail: `${left}: out of time after ${Math.round(start - began)} ms`,
      });
      break;
    }
    results.push(await runCheck(check, kernels, plan, start));
  }
  return results;
}

async function runCheck(
  check: (typeof SELF_CHECKS)[number],
  kernels: Kernels,
  plan: KernelPlan,
  start: number,
): Promise<SelfTestResult> {
  const finish = (ok: boolean, maxError: number, detail: string) => {
    const ms = performance.now() - start;
    return { name: check.name, ok, maxError, ms, detail: `${detail}, ${Math.round(ms)} ms` };
  };
  try {
    using scratch = await Scratch.create(kernels);
    const error = await check.run(scratch, plan);
    const ok = error <= check.limit;
    const bound = ok ? "" : `, at most ${check.limit} is right`;
    return finish(ok, error, `largest error ${error.toExponential(1)}${bound}`);
  } catch (error) {
    return finish(false, NaN, (error as Error).message);
  }
}
