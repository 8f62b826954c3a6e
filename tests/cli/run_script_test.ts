import { assert } from "std-testing";
import { exists, Machine } from "./_sandbox.ts";

/** Arguments that a careless script would split, expand or swallow. */
const HARD_ARGUMENTS = [
  "a  b",
  "",
  "it's",
  '"quoted"',
  "*",
  "?",
  "[a]",
  "$HOME",
  "`id`",
  "$(id)",
  "back\\slash",
  "new\nline",
  "~",
  "--",
  "-n",
  "-e",
  "--help",
  "a;b",
  "a&&b",
  "ü😀",
  "run",
];

function command(machine: Machine, set: string): string[] {
  const { project } = machine;
  return [
    "run",
    "-q",
    "--no-prompt",
    `-P=${set}`,
    "--config",
    `${project}/deno.json`,
    `${project}/main.ts`,
  ];
}

Deno.test("./run hands every argument over unchanged, in the caller's folder", async () => {
  using machine = new Machine().withDeno().withVulkan();
  for (const name of ["generate", "serve", "tokenize"]) {
    const args = [name, ...HARD_ARGUMENTS];
    const { code, started } = await machine.run(args, { cwd: machine.bin });
    assert.equal(code, 0);
    assert.equal(started?.[1], machine.bin);
    const set = name === "serve" ? "serve" : "cli";
    assert.deepEqual(started?.slice(2), [...command(machine, set), ...args]);
  }
});

Deno.test("./run gives the permission to start processes to a supervisor alone", async () => {
  using machine = new Machine().withDeno().withVulkan();
  const cases = [
    ["supervise", ["serve", "--port", "1", "--supervise"], {}],
    ["supervise", ["serve"], { TOKENBUTLER_SUPERVISE: "yes" }],
    ["serve", ["serve"], { TOKENBUTLER_SUPERVISE: "0" }],
    ["serve", ["serve", "--supervise", "--no-supervise"], {}],
    ["serve", ["serve", "--no-supervise"], { TOKENBUTLER_SUPERVISE: "1" }],
    ["supervise", ["serve", "--supervise=true"], {}],
    ["supervise", ["serve", "--supervise=On"], {}],
    ["serve", ["serve", "--supervise=false"], { TOKENBUTLER_SUPERVISE: "1" }],
    ["serve", ["serve", "--supervise", "--supervise=0"], {}],
    ["cli", ["chat", "--supervise"], { TOKENBUTLER_SUPERVISE: "1" }],
  ] as const;
  for (const [set, args, env] of cases) {
    const { started } = await machine.run([...args], { env });
    assert.deepEqual(started?.slice(2), [...command(machine, set), ...args]);
  }
});

Deno.test("./run bounds what V8 keeps where the program runs for long, but a user decides", async () => {
  using machine = new Machine().withDeno().withVulkan();
  const flagsOf = async (args: string[], DENO_V8_FLAGS: string) => {
    await machine.run(args, { env: { DENO_V8_FLAGS } });
    return machine.variables().v8Flags;
  };
  const ours = await flagsOf(["serve"], "");
  assert.match(ours, /^--max-semi-space-size=\d+$/);
  for (const args of [["serve", "--supervise"], ["bench", "http"]]) {
    assert.equal(await flagsOf(args, ""), ours);
  }
  // The last of two flags holds.
  const theirs = "--max-semi-space-size=64,--trace-gc";
  assert.equal(await flagsOf(["serve"], theirs), `${ours},${theirs}`);
  for (const name of ["chat", "train"]) assert.equal(await flagsOf([name], ""), "");
});

Deno.test("./run keeps drivers from calling a machine without a display an error", async () => {
  using machine = new Machine().withDeno().withVulkan();
  for (const name of ["serve", "test"]) {
    await machine.run([name]);
    assert.equal(machine.variables().runtimeDir, "/nonexistent");
    await machine.run([name], { env: { XDG_RUNTIME_DIR: "/run/me" } });
    assert.equal(machine.variables().runtimeDir, "/run/me");
  }
});

Deno.test("./run hands a task's arguments over unchanged", async () => {
  using machine = new Machine().withDeno().withVulkan();
  const { started } = await machine.run(["test", ...HARD_ARGUMENTS]);
  assert.deepEqual(started?.slice(2), [
    "task",
    "-q",
    "--config",
    `${machine.project}/deno.json`,
    "test",
    ...HARD_ARGUMENTS,
  ]);
});

Deno.test("./run takes a task's files from the caller's folder", async () => {
  using machine = new Machine().withDeno();
  const elsewhere = `${machine.root}/else where`;
  machine.write(`${elsewhere}/a b.ts`, "");
  const args = ["fmt", "--check", "a b.ts", "missing.ts", "/etc"];
  const { started } = await machine.run(args, { cwd: elsewhere });
  assert.deepEqual(started?.slice(6), [
    "fmt",
    "--check",
    `${elsewhere}/a b.ts`,
    "missing.ts",
    "/etc",
  ]);
});

Deno.test("./run passes the exit status through", async () => {
  using machine = new Machine().withDeno().withVulkan();
  for (const status of [0, 1, 2, 77]) {
    const { code } = await machine.run(["doctor"], { env: { STATUS: String(status) } });
    assert.equal(code, status);
  }
});

Deno.test("./run becomes Deno, so that signals reach it", async () => {
  for (const [signal, status] of [["SIGTERM", 43], ["SIGINT", 44]] as const) {
    using machine = new Machine().withDeno().withVulkan();
    const child = machine.spawn(["serve"], { WAIT: "1" });
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; !text.includes("ready");) {
      const { value, done } = await reader.read();
      assert.ok(!done, "the fake ended early");
      text += value;
    }
    assert.equal(machine.started()?.[0], String(child.pid));
    child.kill(signal);
    assert.equal((await child.status).code, status);
    await reader.cancel();
    await child.stderr.cancel();
  }
});

Deno.test("./run without a name prints its help and starts nothing", async () => {
  using machine = new Machine();
  for (const args of [[], ["--help"], ["-h"], ["help"]]) {
    const { code, stdout, stderr, started } = await machine.run(args);
    assert.equal(code, 0);
    assert.match(stdout, /Usage: \.\/run NAME/);
    for (const name of ["serve", "chat", "bench", "test", "compile"]) {
      assert.ok(stdout.includes(name), name);
    }
    assert.equal(stderr, "");
    assert.equal(started, undefined);
  }
});

Deno.test("./run leaves unknown names to the program", async () => {
  using machine = new Machine().withDeno();
  const { started } = await machine.run(["sreve", "--version"]);
  assert.deepEqual(started?.slice(2), [...command(machine, "cli"), "sreve", "--version"]);
});

Deno.test("./run works through symbolic links", async () => {
  using machine = new Machine().withDeno();
  Deno.mkdirSync(`${machine.root}/links`);
  Deno.symlinkSync("../my $project 'dir'/run", `${machine.root}/links/tb`);
  Deno.symlinkSync(`${machine.root}/links/tb`, `${machine.root}/links/tb2`);
  const script = `${machine.root}/links/tb2`;
  const { started } = await machine.run(["tokenize"], { script, cwd: machine.root });
  assert.deepEqual(started?.slice(2), [...command(machine, "cli"), "tokenize"]);
});

Deno.test("./run installs Deno with npm once, and writes to standard error alone", async () => {
  using machine = new Machine().withNpm("2.9.6").withVulkan();
  const first = await machine.run(["generate"]);
  assert.equal(first.code, 0, first.stderr);
  assert.equal(first.stdout, "from deno\n");
  assert.match(first.stderr, /installing Deno 2\.9\.6 into/);
  assert.match(first.stderr, /npm prints this/);
  assert.equal(machine.calls().length, 1);
  assert.match(machine.calls()[0] ?? "", /^npm install .*deno@2\.9\.6$/);
  assert.deepEqual([...Deno.readDirSync(`${machine.project}/.deno`)].map(({ name }) => name), [
    "deno",
  ]);
  const second = await machine.run(["generate"]);
  assert.equal(second.code, 0);
  assert.equal(second.stderr, "");
  assert.equal(machine.calls().length, 1);
});

Deno.test("./run does not use a Deno that is too old", async () => {
  for (const old of ["1.46.3", "2.0.0", "2.8.9"]) {
    using machine = new Machine().withDeno(old).withNpm("2.9.6");
    assert.equal((await machine.run(["fmt"])).code, 0);
    assert.equal(machine.calls().length, 1, old);
    assert.ok(exists(`${machine.project}/.deno/deno`));
  }
  for (const good of ["2.9.0", "2.10.1", "3.0.0"]) {
    using machine = new Machine().withDeno(good).withNpm("2.9.6");
    assert.equal((await machine.run(["fmt"])).code, 0);
    assert.equal(machine.calls().length, 0, good);
  }
});

Deno.test("./run says so when npm fails, and leaves nothing behind", async () => {
  using machine = new Machine().withNpm(undefined);
  const { code, stdout, stderr, started } = await machine.run(["serve"]);
  assert.equal(code, 1);
  assert.equal(stdout, "");
  assert.match(stderr, /npm could not install deno@2\.9\.6/);
  assert.equal(started, undefined);
  assert.deepEqual([...Deno.readDirSync(`${machine.project}/.deno`)], []);
});

Deno.test("./run installs npm where it may, and otherwise prints the command", async () => {
  {
    using machine = new Machine().withUser(0).withVulkan();
    machine.withNpm("2.9.6");
    Deno.renameSync(`${machine.bin}/npm`, `${machine.root}/npm`);
    machine.withApt('[ "$1" != install ] || mv "$MACHINE/npm" "$MACHINE/bin/npm"');
    const { code, stdout, stderr } = await machine.run(["serve"]);
    assert.equal(code, 0, stderr);
    assert.equal(stdout, "from deno\n");
    assert.match(machine.calls()[1] ?? "", /^apt-get install .*nodejs npm/);
  }
  {
    using machine = new Machine().withUser(1000).withApt();
    const { code, stderr } = await machine.run(["serve"]);
    assert.equal(code, 1);
    assert.match(stderr, /sudo apt-get update && sudo apt-get install -y nodejs npm/);
    assert.deepEqual(machine.calls(), []);
  }
  {
    using machine = new Machine().withUser(0);
    const { code, stderr } = await machine.run(["serve"]);
    assert.equal(code, 1);
    assert.match(stderr, /package manager.* nodejs npm/);
  }
});

Deno.test("./run installs a Vulkan driver where it may", async () => {
  using machine = new Machine().withDeno().withUser(0).withApt();
  const { code, stdout, stderr } = await machine.run(["generate"]);
  assert.equal(code, 0);
  assert.equal(stdout, "from deno\n");
  assert.match(stderr, /installing mesa-vulkan-drivers libvulkan1/);
  assert.match(machine.calls()[1] ?? "", /^apt-get install .*mesa-vulkan-drivers libvulkan1$/);
});

Deno.test("./run prints the driver's command where it may not install, and goes on", async () => {
  using machine = new Machine().withDeno().withUser(1000).withApt();
  const { code, stdout, stderr } = await machine.run(["doctor"]);
  assert.equal(code, 0);
  assert.equal(stdout, "from deno\n");
  assert.match(stderr, /sudo apt-get install -y mesa-vulkan-drivers libvulkan1/);
  assert.deepEqual(machine.calls(), []);
});

Deno.test("./run looks for drivers where the Vulkan loader does", async () => {
  const places: [string, Record<string, string>][] = [
    ["usr/share/vulkan/icd.d/a.json", {}],
    ["etc/vulkan/icd.d/a.json", {}],
    ["usr/local/share/vulkan/icd.d/a.json", {}],
    ["home/.local/share/vulkan/icd.d/a.json", {}],
    ["data/vulkan/icd.d/a.json", { XDG_DATA_DIRS: "/nowhere:@/data" }],
    ["one.json", { VK_DRIVER_FILES: "/nowhere.json:@/one.json" }],
    ["one.json", { VK_ICD_FILENAMES: "@/one.json" }],
    ["more/one.json", { VK_ADD_DRIVER_FILES: "@/more" }],
  ];
  for (const [path, variables] of places) {
    using machine = new Machine().withDeno().withUser(1000).withApt();
    machine.write(`${machine.root}/${path}`, "{}");
    machine.write(`${machine.root}/usr/lib/libvulkan.so.1`, "");
    const env = Object.fromEntries(
      Object.entries(variables).map(([name, value]) => [name, value.replace("@", machine.root)]),
    );
    assert.equal((await machine.run(["serve"], { env })).stderr, "", path);
  }
});

Deno.test("./run tells of a variable that hides the drivers", async () => {
  using machine = new Machine().withDeno().withVulkan().withUser(0).withApt();
  const { stderr } = await machine.run(["serve"], { env: { VK_DRIVER_FILES: "/nowhere.json" } });
  assert.match(stderr, /VK_DRIVER_FILES or VK_ICD_FILENAMES names no driver file/);
  assert.deepEqual(machine.calls(), []);
});

Deno.test("./run asks for no driver where none is needed", async () => {
  using machine = new Machine().withDeno().withUser(0).withApt();
  for (const name of ["tokenize", "fmt", "lint", "check", "compile", "--version"]) {
    assert.equal((await machine.run([name])).stderr, "", name);
  }
  assert.deepEqual(machine.calls(), []);
});
