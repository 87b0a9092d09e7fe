//! A generated program with many functions, all of which a patch changes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

const NAME: &str = "bench_fix";
const BUILD: &str = "gcc -O2 -pthread -o program program.c";
const TEMPLATE: &str = include_str!("program.c");

/// The program's binary and a module that changes all its functions.
pub(super) struct Subject<'a> {
    engraft: PathBuf,
    binary: PathBuf,
    pub(super) module: PathBuf,
    log: &'a Log,
}

impl<'a> Subject<'a> {
    pub(super) fn build(
        workspace: &Workspace,
        functions: u32,
        log: &'a Log,
    ) -> Result<Self, Failure> {
        let directory = workspace.scratch(&format!("bench/{functions}_functions"))?;
        for (tree, added) in [("source", 1), ("changed", 2)] {
            let tree = directory.join(tree);
            fs::create_dir_all(&tree).context("a tree for a program")?;
            let text = TEMPLATE.replace("FUNCTIONS", &write_functions(functions, added));
            fs::write(tree.join("program.c"), text).context("writing a program")?;
        }
        let source = directory.join("source");
        shell::run(
            Command::new("sh").args(["-c", BUILD]).current_dir(&source),
            log,
        )?;
        let mut diff = Command::new("diff");
        diff.args(["-u", "source/program.c", "changed/program.c"])
            .current_dir(&directory);
        // Its exit code says that the files differ, which they do.
        let difference = diff.output().context("diff")?.stdout;
        let patch = directory.join("change.patch");
        fs::write(&patch, difference).context("writing a patch")?;
        let subject = Self {
            engraft: workspace.engraft_binary(),
            // Built in the tree itself, it would be copied by every build.
            binary: directory.join("program"),
            module: directory.join(format!("{NAME}.lp")),
            log,
        };
        fs::rename(source.join("program"), &subject.binary).context("moving a program")?;
        let mut build = Command::new(&subject.engraft);
        build
            .args(["build", "--source"])
            .arg(&source)
            .arg("--patch")
            .arg(&patch)
            .args(["--target", "program", "--output"])
            .arg(&subject.module)
            .args(["--", "sh", "-c", BUILD]);
        shell::run(&mut build, log)?;
        Ok(subject)
    }

    pub(super) fn start(&self, threads: u32) -> Result<Running<'_>, Failure> {
        let mut child = Command::new(&self.binary)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(format!("starting {}", self.binary.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("a program without input and output"));
        };
        let mut running = Running {
            subject: self,
            child,
            input,
            output: BufReader::new(output),
        };
        match &*running.read_line()? {
            "ready" => Ok(running),
            other => Err(Failure::new(format!("the program says {other:?}"))),
        }
    }
}

fn write_functions(count: u32, added: u32) -> String {
    let functions = (0..count).map(|number| {
        format!(
            "SEPARATE int function_{number}(int x)\n{{\n\treturn x * 3 + {};\n}}\n",
            number + added
        )
    });
    functions.collect::<Vec<_>>().join("\n")
}

/// The program while it runs; it ends with this value.
pub(super) struct Running<'a> {
    subject: &'a Subject<'a>,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What the first function returns for 1, and the times of calls in nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Calls {
    pub(super) result: u32,
    pub(super) changed: f64,
    pub(super) unchanged: f64,
}

impl Running<'_> {
    /// Loads the module; the transition's seconds, and those of the whole command.
    pub(super) fn load(&self) -> Result<(f64, Duration), Failure> {
        let started = Instant::now();
        let module = self.subject.module.to_string_lossy();
        let answer = self.run(&["load", &module])?;
        let whole = started.elapsed();
        let seconds = answer["seconds"].as_f64();
        let seconds =
            seconds.ok_or_else(|| Failure::new(format!("`engraft load` answers {answer}")))?;
        Ok((seconds, whole))
    }

    /// Back to the program as it was started.
    pub(super) fn take_out(&self) -> Result<(), Failure> {
        self.run(&["disable", NAME])?;
        self.run(&["unload", NAME]).map(drop)
    }

    pub(super) fn time_calls(&mut self) -> Result<Calls, Failure> {
        self.input.write_all(b"?\n").context("asking a program")?;
        let line = self.read_line()?;
        let words: Vec<&str> = line.split(' ').collect();
        let wrong = || Failure::new(format!("the program says {line:?}"));
        let &[result, changed, unchanged] = &words[..] else {
            return Err(wrong());
        };
        Ok(Calls {
            result: result.parse().map_err(|_| wrong())?,
            changed: changed.parse().map_err(|_| wrong())?,
            unchanged: unchanged.parse().map_err(|_| wrong())?,
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let mut command = Command::new(&self.subject.engraft);
        command
            .args(arguments)
            .args(["--json", "--pid", &self.child.id().to_string()]);
        let text = shell::read(&mut command, self.subject.log)?;
        let first = text.lines().next().unwrap_or_default();
        serde_json::from_str(first).context(format!("engraft answers {text:?}"))
    }

    fn read_line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("an answer")?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Size of a file.
pub(super) fn size_of(path: &Path) -> Result<u64, Failure> {
    let metadata = fs::metadata(path).context(format!("reading {}", path.display()))?;
    Ok(metadata.len())
}
