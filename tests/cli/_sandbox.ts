/** A small made-up machine for the `run` script: its own project, programs and system folders. @module */

const SCRIPT = new URL("../../run", import.meta.url);

/** What the script may use beside the programs of the test. */
const TOOLS = [
  "cat",
  "chmod",
  "dirname",
  "grep",
  "id",
  "mkdir",
  "mv",
  "readlink",
  "rm",
  "sed",
  "sh",
  "uname",
];

/** Answers `--version`, else records its arguments and its folder. */
function fakeDeno(version: string): string {
  return `#!/bin/sh
if [ "$1" = --version ]; then echo "deno ${version} (stable, release)"; exit 0; fi
printf '%s\\0' "$$" "$PWD" "$@" >"$MACHINE/started"
printf '%s\\0' "\${DENO_V8_FLAGS:-}" "\${XDG_RUNTIME_DIR:-}" >"$MACHINE/variables"
echo "from deno"
if [ -n "\${WAIT:-}" ]; then
  trap 'exit 43' TERM
  trap 'exit 44' INT
  echo ready
  while :; do sleep 0.05; done
fi
exit "\${STATUS:-0}"
`;
}

/** Records that it was called; what it does beyond that is up to the test. */
function fakeProgram(name: string, body: string): string {
  return `#!/bin/sh
printf '%s\\n' "${name} $*" >>"$MACHINE/calls"
echo "${name} prints this"
${body}
`;
}

/** What a start of the script did. */
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Process id, folder and arguments of Deno, if it was started. */
  readonly started: readonly string[] | undefined;
}

/** The machine. Dispose of it. */
export class Machine implements Disposable {
  readonly root: string;
  /** The project, in a folder that needs quoting. */
  readonly project: string;
  readonly bin: string;

  constructor() {
    // The real path, since the script resolves links.
    this.root = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "tokenbutler_run_" }));
    this.project = `${this.root}/my $project 'dir'`;
    this.bin = `${this.root}/bin`;
    for (const folder of [this.project, this.bin, `${this.root}/usr/lib`, `${this.root}/home`]) {
      Deno.mkdirSync(folder, { recursive: true });
    }
    // The system's folders are the machine's own, so that what is installed here does not matter.
    const script = Deno.readTextFileSync(SCRIPT).replace(
      /(?<=[\s:=])\/(?=(usr|etc|lib|run)[/:])/g,
      `${this.root}/`,
    );
    this.write(`${this.project}/run`, script);
    this.write(`${this.project}/deno.json`, "{}");
    for (const tool of [...TOOLS, "sleep"]) {
      const path = ["/usr/bin", "/bin"].map((folder) => `${folder}/${tool}`).find(exists);
      if (path === undefined) throw new Error(`this machine has no ${tool}`);
      Deno.symlinkSync(path, `${this.bin}/${tool}`);
    }
  }

  write(path: string, text: string): void {
    Deno.mkdirSync(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    Deno.writeTextFileSync(`${path}.new`, text);
    // By a process of its own: what another test starts meanwhile would have this file open for
    // writing until it is a program itself, and nobody could run it ("text file busy").
    const { success } = new Deno.Command("cp", { args: [`${path}.new`, path] }).outputSync();
    if (!success) throw new Error(`cannot write ${path}`);
    Deno.removeSync(`${path}.new`);
    Deno.chmodSync(path, 0o755);
  }

  /** Puts Deno on the path. */
  withDeno(version = "2.9.6"): this {
    this.write(`${this.bin}/deno`, fakeDeno(version));
    return this;
  }

  /** Puts npm on the path; it "installs" a Deno of this version, or fails. */
  withNpm(version: string | undefined): this {
    this.write(
      `${this.root}/deno_for_npm`,
      fakeDeno(version ?? ""),
    );
    const install = `mkdir -p node_modules/@deno/made-up
cat "$MACHINE/deno_for_npm" >node_modules/@deno/made-up/deno`;
    this.write(
      `${this.bin}/npm`,
      fakeProgram("npm", version === undefined ? "exit 1" : install),
    );
    return this;
  }

  /** A Debian machine; `apt-get install` runs `body`. */
  withApt(body = ""): this {
    this.write(`${this.root}/etc/debian_version`, "13.0\n");
    this.write(`${this.bin}/apt-get`, fakeProgram("apt-get", body));
    return this;
  }

  /** Says who the user is. */
  withUser(id: number): this {
    Deno.removeSync(`${this.bin}/id`);
    this.write(`${this.bin}/id`, `#!/bin/sh\necho ${id}\n`);
    return this;
  }

  /** A Vulkan driver and the library that finds it. */
  withVulkan(): this {
    this.write(`${this.root}/usr/share/vulkan/icd.d/lvp_icd.json`, "{}");
    this.write(`${this.root}/usr/lib/libvulkan.so.1`, "");
    return this;
  }

  /** A start that is still going on. */
  spawn(args: readonly string[], env: Readonly<Record<string, string>> = {}): Deno.ChildProcess {
    return this.#command(`${this.project}/run`, this.project, args, env).spawn();
  }

  /** Starts the script and waits for its end. */
  async run(
    args: readonly string[],
    options: {
      readonly env?: Readonly<Record<string, string>>;
      readonly cwd?: string;
      readonly script?: string;
    } = {},
  ): Promise<Outcome> {
    const script = options.script ?? `${this.project}/run`;
    const command = this.#command(script, options.cwd ?? this.project, args, options.env ?? {});
    const output = await command.output();
    const decoder = new TextDecoder();
    return {
      code: output.code,
      stdout: decoder.decode(output.stdout),
      stderr: decoder.decode(output.stderr),
      started: this.started(),
    };
  }

  /** Process id, folder and arguments of the Deno that was started last. */
  started(): readonly string[] | undefined {
    const path = `${this.root}/started`;
    if (!exists(path)) return undefined;
    return Deno.readTextFileSync(path).split("\0").slice(0, -1);
  }

  /** Variables of the Deno that was started last; empty: not set. */
  variables(): { readonly v8Flags: string; readonly runtimeDir: string } {
    const text = Deno.readTextFileSync(`${this.root}/variables`);
    const [v8Flags = "", runtimeDir = ""] = text.split("\0");
    return { v8Flags, runtimeDir };
  }

  /** Calls of npm and apt-get so far. */
  calls(): readonly string[] {
    const path = `${this.root}/calls`;
    return exists(path) ? Deno.readTextFileSync(path).trimEnd().split("\n") : [];
  }

  #command(
    script: string,
    cwd: string,
    args: readonly string[],
    env: Readonly<Record<string, string>>,
  ): Deno.Command {
    return new Deno.Command(script, {
      args: [...args],
      cwd,
      clearEnv: true,
      env: { PATH: this.bin, HOME: `${this.root}/home`, MACHINE: this.root, ...env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    });
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.root, { recursive: true });
  }
}

/** Whether a file is there. */
export function exists(path: string | URL): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
