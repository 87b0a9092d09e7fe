//! Real programs compiled at test time, and patches for them.
#![allow(dead_code, unreachable_pub)] // each test binary uses its own part

pub mod answers;
pub mod code;
pub mod crew;
pub mod family;
pub mod samples;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use engraft_engine::{Engine, Error, LoadRequest};
use engraft_module::{CompileRequest, compile};

/// A directory with the things of one test.
pub struct Workshop {
    directory: tempfile::TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("temporary directory"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("write source");
        path
    }

    /// Compiles a program with the compiler and flags given, sources and libraries among them.
    pub fn build(&self, compiler: &str, output: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(output);
        let result = Command::new(compiler)
            .arg("-o")
            .arg(&path)
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(
            result.status.success(),
            "{}",
            String::from_utf8_lossy(&result.stderr)
        );
        path
    }

    /// Compiles a program from `tests/fixtures`.
    pub fn build_fixture(&self, source: &str, flags: &[&str]) -> PathBuf {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(source);
        let output = source.split('.').next().expect("a file name");
        let mut arguments = vec![path.to_str().expect("text")];
        arguments.extend(flags);
        self.build("cc", output, &arguments)
    }

    /// Compiles a livepatch; returns the bytes of the module.
    pub fn module(&self, name: &str, source: &str) -> Vec<u8> {
        self.module_with(name, source, &[])
    }

    /// The same with more flags for the compiler.
    pub fn module_with(&self, name: &str, source: &str, flags: &[&str]) -> Vec<u8> {
        let extension = if source.contains("// C++") {
            "cpp"
        } else {
            "c"
        };
        let source = self.write(&format!("{name}.{extension}"), source);
        let output = self.path(&format!("{name}.lp"));
        let request = CompileRequest {
            sources: vec![source],
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

/// A running program that answers a line on stdout for each line on stdin.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    pub fn start(path: &Path) -> Self {
        Self::start_with(Command::new(path))
    }

    pub fn start_with(command: Command) -> Self {
        let program = Self::spawn(command);
        assert_eq!(program.line(), "ready");
        program
    }

    /// Starts it and does not wait until it is ready.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("program starts");
        let output = child.stdout.take().expect("piped");
        Self::with_output(child, output)
    }

    fn with_output(mut child: Child, output: impl Read + Send + 'static) -> Self {
        let input = child.stdin.take();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            input,
            lines,
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(Duration::from_secs(120))
            .expect("the program answers")
    }

    pub fn ask(&mut self, question: &str) -> String {
        self.tell(question);
        self.line()
    }

    /// Sends a line that is not answered.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("piped");
        // In one piece, as programs that read without a buffer expect.
        let line = format!("{line}\n");
        input
            .write_all(line.as_bytes())
            .expect("the program listens");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("child").is_none()
    }

    /// Waits until it has ended, however that came.
    pub fn wait_for_end(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        // An engine of this process may have taken note of it.
        while self.child.try_wait().is_ok_and(|end| end.is_none()) {
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Closes its input and expects a clean end.
    pub fn finish(mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("child");
        assert!(status.success(), "{status}");
    }
}

/// A failed test leaves nothing behind.
impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already unless a test has failed, or it never ends by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn load(
    engine: &mut Engine,
    name: &str,
    module: &[u8],
    parameters: &[(&str, &str)],
) -> Result<(), Error> {
    let parameters: Vec<(String, String)> = parameters
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let file_name = format!("{name}.lp");
    engine.load(&LoadRequest {
        module,
        file_name: &file_name,
        parameters: &parameters,
        enable: true,
    })
}

/// Retries until the transition is over.
pub fn settle(engine: &mut Engine) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Some(status) = engine.retry().expect("retry") {
        assert!(Instant::now() < deadline, "stalled: {status:#?}");
        engine.pause(Duration::from_millis(2)).expect("pause");
    }
}

/// The livepatch log without debug lines about threads, as text.
pub fn log_of(pid: i32) -> Vec<String> {
    let lines = engraft_engine::read_log(pid).expect("log");
    lines
        .into_iter()
        .map(|line| line.text)
        .filter(|text| !text.contains("klp_try_switch_task"))
        .collect()
}
