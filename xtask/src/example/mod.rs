//! The worked examples of the documentation, done: the same files, the same commands, and the
//! program's own output as proof.

mod scripts;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure};
use crate::shell::{self, Log};
use crate::workspace::Workspace;
use scripts::{SCRIPTS, Script};

/// The program prints a line a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs every example in a directory of its own.
pub(crate) fn run(workspace: &Workspace, log: &Log) -> Result<String, Failure> {
    for script in &SCRIPTS {
        script.check_page(workspace)?;
        script.play(workspace, log)?;
    }
    let commands: usize = SCRIPTS.iter().map(|script| script.steps.len()).sum();
    Ok(format!("{commands} commands"))
}

impl Script {
    /// The page must show what is run here: the files, and each command.
    fn check_page(&self, workspace: &Workspace) -> Result<(), Failure> {
        let Self {
            page, directory, ..
        } = self;
        let text = fs::read_to_string(workspace.path(page)).context(page)?;
        for name in self.shown {
            let path = workspace.path(directory).join(name);
            let file = fs::read_to_string(&path).context(path.display())?;
            if !text.contains(&file) {
                let message = format!("{page} does not show {directory}/{name} as it is");
                return Err(Failure::new(message));
            }
        }
        for (command, _) in self.steps {
            let line = format!("engraft {}", command.join(" "));
            if !text.contains(&line) {
                return Err(Failure::new(format!("{page} does not show `{line}`")));
            }
        }
        Ok(())
    }

    fn play(&self, workspace: &Workspace, log: &Log) -> Result<(), Failure> {
        let directory = workspace.scratch("example")?;
        let mut copy = Command::new("cp");
        copy.arg("--recursive")
            .arg(workspace.path(self.directory).join("."));
        shell::run(copy.arg(&directory), log)?;
        let mut cc = Command::new("cc");
        cc.args(["-g", "-o", self.program]);
        cc.arg(format!("{}.c", self.program));
        shell::run(cc.current_dir(&directory), log)?;
        let tool = workspace.engraft_binary();
        for name in self.modules {
            let mut compile = Command::new(&tool);
            compile
                .arg("cc")
                .arg(format!("{name}.c"))
                .arg("-o")
                .arg(format!("{name}.lp"));
            shell::run(compile.current_dir(&directory), log)?;
        }
        let program = Program::start(&directory.join(self.program))?;
        program.expect(self.original)?;
        for (command, output) in self.steps {
            take_step(&tool, &directory, &program, command, log)
                .and_then(|()| program.expect(output))
                .context(format!("engraft {}", command.join(" ")))?;
        }
        Ok(())
    }
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
