//! The livepatches and programs of `samples/`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use engraft_module::{CompileRequest, compile};

use super::{Program, Workshop};

/// How long a sample may take to print what it is to print.
const PATIENCE: Duration = Duration::from_secs(120);

/// A file of `samples/`.
pub fn sample(name: &str) -> PathBuf {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../samples");
    PathBuf::from(directory).join(name)
}

impl Workshop {
    /// Compiles a program or library of `samples/`.
    pub fn build_sample(&self, name: &str, output: &str, flags: &[&str]) -> PathBuf {
        let source = sample(name);
        let source = source.to_str().expect("path in UTF-8");
        let mut arguments = vec![source, "-O2", "-g", "-pthread"];
        arguments.extend(flags);
        self.build("cc", output, &arguments)
    }

    /// Compiles a livepatch of `samples/`; its name is the file's with `_` for `-`.
    pub fn sample_module(&self, name: &str, flags: &[&str]) -> Vec<u8> {
        let output = self.path(&format!("{}.lp", name.replace('-', "_")));
        let request = CompileRequest {
            sources: vec![sample(&format!("{name}.c"))],
            output: output.clone(),
            flags: flags.iter().map(Into::into).collect(),
            ..CompileRequest::default()
        };
        if let Err(error) = compile(&request) {
            panic!("{name}: {error}");
        }
        std::fs::read(output).expect("module")
    }
}

impl Program {
    /// Starts a sample, whose standard error comes in the same stream as its output.
    pub fn start_sample(mut command: Command) -> Self {
        let (output, errors) = std::io::pipe().expect("pipe");
        let copy = errors.try_clone().expect("descriptor");
        command.stdin(Stdio::piped()).stdout(errors).stderr(copy);
        let child = command.spawn().expect("program starts");
        // The command holds the ends that the program writes to.
        drop(command);
        Self::with_output(child, output)
    }

    /// Waits for a line with `text` in it and returns it with all lines before it.
    pub fn wait_for(&self, text: &str) -> Vec<String> {
        self.wait_until(text, |line| line.contains(text))
    }

    /// Waits for a line that fits and returns it with all lines before it.
    pub fn wait_until(&self, what: &str, fits: impl Fn(&str) -> bool) -> Vec<String> {
        collect(&self.lines, what, fits)
    }

    /// Everything printed so far and not taken yet.
    pub fn printed(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

fn collect(lines: &Receiver<String>, what: &str, fits: impl Fn(&str) -> bool) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let found = fits(&line);
                seen.push(line);
                if found {
                    return seen;
                }
            }
            Err(RecvTimeoutError::Timeout) => panic!("no line with {what:?} in {seen:#?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("ended before {what:?}: {seen:#?}"),
        }
    }
}
