import { assert } from "std-testing";
import { EXIT } from "../../src/cli/io.ts";
import { lifeFlags } from "../../src/cli/life_flags.ts";
import { ROUTES } from "../../src/server/openapi/routes.ts";

const read = (name: string) =>
  Deno.readTextFileSync(new URL(`../../${name}`, import.meta.url).pathname);
const FILES = ["Dockerfile", "compose.yaml", "kubernetes.yaml", "tokenbutler.service"];

Deno.test("every deployment file says that it was not run", () => {
  for (const name of FILES) assert.match(read(`deploy/${name}`), /^# NOT RUN: /m, name);
});

Deno.test("the image has the version of Deno that ./run installs, and is not root", () => {
  const version = read("run").match(/^deno_version=(\S+)/m)?.[1];
  assert.ok(version);
  const dockerfile = read("deploy/Dockerfile");
  assert.ok(dockerfile.includes(`FROM denoland/deno:bin-${version} AS deno`));
  const user = dockerfile.match(/^USER (\d+):(\d+)$/m);
  assert.ok(user !== null && Number(user[1]) > 0);
  const kubernetes = read("deploy/kubernetes.yaml");
  assert.ok(kubernetes.includes(`runAsUser: ${user[1]}\n`));
  assert.ok(kubernetes.includes(`runAsGroup: ${user[2]}\n`));
  for (const rule of ["readOnlyRootFilesystem: true", "allowPrivilegeEscalation: false"]) {
    assert.ok(kubernetes.includes(rule), rule);
  }
  assert.match(read("deploy/compose.yaml"), /^ {4}read_only: true$/m);
});

Deno.test("the folders that they fetch packages for are those of the program's workers", () => {
  const { compile } = JSON.parse(read("deno.json"));
  const workers = compile.include.filter((path: string) => path.endsWith(".ts"));
  const cached = read("deploy/Dockerfile").match(
    /^RUN deno cache --frozen main\.ts ((?:.*\\\n)*.*)$/m,
  )?.[1];
  assert.deepEqual(cached?.split(/[\s\\]+/).toSorted(), workers.toSorted());
});

Deno.test("V8 is bounded there as ./run bounds it", () => {
  const flags = read("run").match(/^ +DENO_V8_FLAGS=([^$\s]+)\$/m)?.[1];
  assert.ok(flags);
  assert.match(read("deploy/Dockerfile"), new RegExp(`^  DENO_V8_FLAGS=${flags} \\\\$`, "m"));
  const unit = read("deploy/tokenbutler.service");
  assert.ok(unit.includes(`\nEnvironment=DENO_V8_FLAGS=${flags}\n`));
  const { tasks } = JSON.parse(read("deno.json"));
  assert.ok(tasks.compile.command.includes(` --v8-flags=${flags} `));
  assert.ok(read("README.md").includes(`(\`${flags}\`, per thread and in MiB)`));
});

Deno.test("probes ask for routes that there are", () => {
  const described = new Set(ROUTES.map(({ path }) => path));
  const asked = [...read("deploy/kubernetes.yaml").matchAll(/^ +path: (\/\S+)$/gm)]
    .map(([, path]) => path!);
  assert.deepEqual(asked, ["/health", "/live", "/ready"]);
  for (const path of asked) assert.ok(described.has(path), path);
});

Deno.test("whoever ends the server waits longer than it drains", () => {
  const waits = {
    "compose.yaml": /^ +stop_grace_period: (\d+)s$/m,
    "kubernetes.yaml": /^ +terminationGracePeriodSeconds: (\d+)$/m,
    "tokenbutler.service": /^TimeoutStopSec=(\d+)$/m,
  };
  for (const [name, pattern] of Object.entries(waits)) {
    const seconds = Number(read(`deploy/${name}`).match(pattern)?.[1]);
    // The error events and the end of the process come after the drain.
    assert.ok(seconds >= lifeFlags.drainTimeout.fallback + 10, `${name}: ${seconds} s`);
  }
});

Deno.test("systemd does not repeat the exit code of what cannot work as asked", () => {
  const unit = read("deploy/tokenbutler.service");
  assert.match(unit, /^Restart=on-failure$/m);
  assert.equal(unit.match(/^RestartPreventExitStatus=(.*)$/m)?.[1], String(EXIT.usage));
});

Deno.test("where memory is bounded, rows on the host have at most half of that", () => {
  const bounds = {
    "compose.yaml": [/^ +mem_limit: (\d+)g$/m, /^ +TOKENBUTLER_KV_HOST: (\d+)GiB$/m],
    "kubernetes.yaml": [
      /^ +limits:\n(?: +\w.*\n)*? +memory: (\d+)Gi$/m,
      /^ +- name: TOKENBUTLER_KV_HOST\n +value: (\d+)GiB$/m,
    ],
    "tokenbutler.service": [/^MemoryMax=(\d+)G$/m, /^Environment=TOKENBUTLER_KV_HOST=(\d+)GiB$/m],
  };
  for (const [name, patterns] of Object.entries(bounds)) {
    const [bound, rows] = patterns.map((pattern) =>
      Number(read(`deploy/${name}`).match(pattern)?.[1])
    );
    assert.ok(rows! > 0 && rows! <= bound! / 2, `${name}: ${rows} of ${bound} GiB`);
  }
});

Deno.test("gateways are told of metrics and health checks of routes that there are", () => {
  const described = new Set(ROUTES.map(({ path }) => path));
  assert.ok(read("deploy/Dockerfile").includes("/health`"));
  assert.ok(described.has("/health") && described.has("/metrics"));
  const vllm = read("src/observe/metrics/vllm.ts");
  const named = [...read("deploy/kubernetes.yaml").matchAll(/^# {3}(vllm:\w+)/gm)];
  assert.equal(named.length, 4);
  for (const [, name] of named) assert.ok(vllm.includes(`"${name}"`), name);
});
