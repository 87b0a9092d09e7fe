//! The README's worked example, done: the same files, the same commands, and the program's
//! own output as proof.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;

const DIRECTORY: &str = "docs/example";

/// Files that the README shows in full.
const SHOWN: [&str; 3] = ["shop.c", "shop_fix1.c", "total.patch"];

/// The program prints a line a second.
const PATIENCE: Duration = Duration::from_secs(10);

const ORIGINAL: &str = "253 cents";
const FIX1: &str = "750 cents";
const FIX2: &str = "7.50 euro";

/// Each command of the example, and what the program prints afterwards.
const STEPS: &[(&[&str], &str)] = &[
    (&["inspect", "shop_fix1.lp"], ORIGINAL),
    (&["check", "shop_fix1.lp", "--pid"], ORIGINAL),
    (&["load", "shop_fix1.lp", "--pid"], FIX1),
    (&["status", "--pid"], FIX1),
    (&["load", "shop_fix2.lp", "--pid"], FIX2),
    (&["list", "--pid"], FIX2),
    (&["unload", "shop_fix1", "--pid"], FIX2),
    (&["load", "shop_fix1.lp", "--pid"], FIX1),
    (&["unload", "shop_fix2", "--pid"], FIX1),
    (&["disable", "shop_fix1", "--pid"], ORIGINAL),
    (&["unload", "shop_fix1", "--pid"], ORIGINAL),
    (&["log", "--pid"], ORIGINAL),
    (
        &[
            "build",
            "--source",
            ".",
            "--patch",
            "total.patch",
            "--target",
            "shop",
            "-o",
            "shop_total.lp",
            "--",
            "cc",
            "-g",
            "-o",
            "shop",
            "shop.c",
        ],
        ORIGINAL,
    ),
    (&["load", "shop_total.lp", "--pid"], FIX1),
    (&["disable", "shop_total", "--pid"], ORIGINAL),
    (&["unload", "shop_total", "--pid"], ORIGINAL),
];

/// Runs the example in a directory of its own.
pub(crate) fn run(workspace: &Workspace, log: &Log) -> Result<String, Failure> {
    check_readme(workspace)?;
    let directory = workspace.scratch("example")?;
    let mut copy = Command::new("cp");
    copy.arg("--recursive")
        .arg(workspace.path(DIRECTORY).join("."));
    shell::run(copy.arg(&directory), log)?;
    let mut cc = Command::new("cc");
    cc.args(["-g", "-o", "shop", "shop.c"]);
    shell::run(cc.current_dir(&directory), log)?;
    let tool = workspace.engraft_binary();
    for name in ["shop_fix1", "shop_fix2"] {
        let mut compile = Command::new(&tool);
        compile
            .arg("cc")
            .arg(format!("{name}.c"))
            .arg("-o")
            .arg(format!("{name}.lp"));
        shell::run(compile.current_dir(&directory), log)?;
    }
    let program = Program::start(&directory.join("shop"))?;
    program.expect(ORIGINAL)?;
    for (command, output) in STEPS {
        take_step(&tool, &directory, &program, command, log)
            .and_then(|()| program.expect(output))
            .context(format!("engraft {}", command.join(" ")))?;
    }
    Ok(format!("{} commands", STEPS.len()))
}

/// The README must show what is run here: the files, and each command.
fn check_readme(workspace: &Workspace) -> Result<(), Failure> {
    let readme = fs::read_to_string(workspace.path("README.md")).context("README.md")?;
    for name in SHOWN {
        let path = workspace.path(DIRECTORY).join(name);
        let text = fs::read_to_string(&path).context(path.display())?;
        if !readme.contains(&text) {
            let message = format!("README.md does not show {DIRECTORY}/{name} as it is");
            return Err(Failure::new(message));
        }
    }
    for (command, _) in STEPS {
        let line = format!("engraft {}", command.join(" "));
        if !readme.contains(&line) {
            return Err(Failure::new(format!("README.md does not show `{line}`")));
        }
    }
    Ok(())
}

fn take_step(
    tool: &Path,
    directory: &Path,
    program: &Program,
    command: &[&str],
    log: &Log,
) -> Result<(), Failure> {
    let mut step = Command::new(tool);
    step.args(command).current_dir(directory);
    if command.contains(&"--pid") {
        step.arg(program.child.id().to_string());
    }
    shell::run(&mut step, log)
}

/// The running example program; it ends with this value.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    fn start(binary: &Path) -> Result<Self, Failure> {
        let mut child = Command::new(binary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the example")?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| Failure::new("the example has no output"))?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Of the lines from now on, the first may be older than the last command; the second
    /// must end like this.
    fn expect(&self, ending: &str) -> Result<(), Failure> {
        while self.lines.try_recv().is_ok() {}
        let deadline = Instant::now() + PATIENCE;
        let mut line = String::new();
        for _ in 0..2 {
            let left = deadline.saturating_duration_since(Instant::now());
            line = self
                .lines
                .recv_timeout(left)
                .context("the example prints nothing")?;
        }
        if line.ends_with(ending) {
            Ok(())
        } else {
            let message = format!("the example printed `{line}` instead of `... {ending}`");
            Err(Failure::new(message))
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which shows as missing output.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
