//! A program of the corpus while it runs.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure};

const PATIENCE: Duration = Duration::from_secs(20);

/// How a program is started and asked something.
pub(super) struct Program {
    /// PORT and SCRATCH in them stand for a free port and a directory.
    pub(super) arguments: &'static [&'static str],
    /// What is sent over a connection; nothing for a program that only waits for its input.
    pub(super) request: &'static [u8],
    /// How the answer begins.
    pub(super) reply: &'static str,
}

impl Program {
    /// A program that reads its standard input.
    pub(super) const WAITS_FOR_INPUT: Self = Self {
        arguments: &["-"],
        request: b"",
        reply: "",
    };
}

/// A started program; it ends with this value.
pub(super) struct Running {
    child: Child,
    address: SocketAddr,
    program: &'static Program,
}

impl Running {
    pub(super) fn start(
        binary: &Path,
        scratch: &Path,
        program: &'static Program,
    ) -> Result<Self, Failure> {
        let address = find_free_address()?;
        write_configurations(scratch, address.port())?;
        let arguments = program.arguments.iter().map(|argument| {
            argument
                .replace("PORT", &address.port().to_string())
                .replace("SCRATCH", &scratch.to_string_lossy())
        });
        let output = fs::File::create(scratch.join("output")).context("creating a log")?;
        let child = Command::new(binary)
            .args(arguments)
            .current_dir(scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .context(format!("starting {}", binary.display()))?;
        let mut running = Self {
            child,
            address,
            program,
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(failure) = running.ask() {
            running.check_alive()?;
            if Instant::now() > deadline {
                return Err(failure);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(running)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the program something and checks its answer.
    pub(super) fn ask(&self) -> Result<(), Failure> {
        if self.program.request.is_empty() {
            return Ok(());
        }
        let doing = "asking the program";
        let mut stream = TcpStream::connect(self.address).context(doing)?;
        stream.set_read_timeout(Some(PATIENCE)).context(doing)?;
        stream.write_all(self.program.request).context(doing)?;
        let mut reply = vec![0; self.program.reply.len()];
        stream.read_exact(&mut reply).context(doing)?;
        if reply == self.program.reply.as_bytes() {
            Ok(())
        } else {
            let reply = String::from_utf8_lossy(&reply).into_owned();
            Err(Failure::new(format!("the program answers {reply:?}")))
        }
    }

    pub(super) fn check_alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::new(format!("the program has ended: {status}"))),
            Err(error) => Err(Failure::new(format!("waiting for the program: {error}"))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn find_free_address() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    listener.local_addr().context("finding a free port")
}

/// What programs read that take no port on their command line.
fn write_configurations(scratch: &Path, port: u16) -> Result<(), Failure> {
    let nginx = format!(
        "error_log stderr;\npid {0}/nginx.pid;\nevents {{ }}\nhttp {{\n  access_log off;\n  \
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 'fine'; }} }}\n}}\n",
        scratch.display()
    );
    let tinyproxy = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 600\nLogLevel Error\nStatHost \"tinyproxy.stats\"\n"
    );
    for (name, text) in [
        ("nginx.conf", nginx.as_str()),
        ("tinyproxy.conf", &tinyproxy),
        ("index.html", "fine\n"),
    ] {
        let path = scratch.join(name);
        fs::write(&path, text).context(format!("writing {}", path.display()))?;
    }
    fs::create_dir_all(scratch.join("logs")).context("creating a directory for logs")
}
