//! A virtual machine, and the serial line to its guest.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use engraft_guest::{Context, Failure, Outcome, Request, Response};

/// How long the guest may take for an answer. It runs without hardware support.
const PATIENCE: Duration = Duration::from_secs(180);

/// How much of the console is shown when the guest fails.
const LAST_LINES: usize = 30;

/// A guest that takes steps. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Machine {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    console: PathBuf,
}

impl Machine {
    /// Boots a kernel and waits until the guest is ready.
    pub(super) fn boot(image: &Path, initramfs: &Path, console: &Path) -> Result<Self, Failure> {
        // It must not outlive this program, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // One processor: its idle thread never holds a transition up. While it is idle, the
        // guest's time passes in jumps, so that nobody waits for the kernel's timers.
        command.args(["-accel", "tcg", "-smp", "1", "-m", "256"]);
        command.args(["-icount", "shift=0,sleep=off"]);
        command.args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-nodefaults",
        ]);
        command
            .arg("-serial")
            .arg(format!("file:{}", console.display()));
        command.args(["-serial", "stdio"]);
        command
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs);
        command.args([
            "-append",
            "console=ttyS0 quiet panic=-1 rcupdate.rcu_cpu_stall_suppress=1",
        ]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.spawn().context("qemu-system-x86_64")?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Failure::new("qemu-system-x86_64 has no pipes"));
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let machine = Self {
            process,
            input,
            lines,
            console: console.to_owned(),
        };
        while machine.line()? != "ready" {}
        Ok(machine)
    }

    /// Makes a request and waits for the answer.
    pub(super) fn ask(&mut self, request: &Request) -> Result<Outcome, Failure> {
        let text = serde_json::to_string(request).context("encoding a request")?;
        let written = writeln!(self.input, "{text}").and_then(|()| self.input.flush());
        written.context("writing to the guest")?;
        let line = self.line()?;
        let response: Response = serde_json::from_str(&line).context(&line)?;
        response.map_err(Failure::new)
    }

    fn line(&self) -> Result<String, Failure> {
        let received = self.lines.recv_timeout(PATIENCE);
        received.map_err(|_| {
            let console = fs::read(&self.console).unwrap_or_default();
            let console = String::from_utf8_lossy(&console);
            let lines: Vec<&str> = console.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            Failure::new(format!(
                "the guest does not answer; its console:\n{}",
                last.join("\n")
            ))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
