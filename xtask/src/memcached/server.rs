//! The running memcached.

use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::build::Built;
use crate::failure::{Context, Failure};

const START_PATIENCE: Duration = Duration::from_secs(10);

/// memcached with four workers on a port of its own choice; it ends with this value.
pub(super) struct Server {
    child: RefCell<Child>,
    address: SocketAddr,
}

impl Server {
    pub(super) fn start(built: &Built) -> Result<Self, Failure> {
        let ports = built.source.join("ports");
        if ports.exists() {
            fs::remove_file(&ports).context(format!("removing {}", ports.display()))?;
        }
        let mut command = Command::new(&built.binary);
        command
            .args(["-l", "127.0.0.1", "-p", "-1", "-t", "4", "-m", "256"])
            .env("MEMCACHED_PORT_FILENAME", &ports)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if is_root() {
            command.args(["-u", "root"]);
        }
        let child = command.spawn().context("starting memcached")?;
        let mut server = Self {
            child: RefCell::new(child),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        server.address.set_port(server.wait_for_port(&ports)?);
        Ok(server)
    }

    fn wait_for_port(&self, ports: &Path) -> Result<u16, Failure> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let text = fs::read_to_string(ports).unwrap_or_default();
            if let Some(port) = parse_port(&text) {
                return Ok(port);
            }
            self.check_alive()?;
            if Instant::now() > deadline {
                return Err(Failure::new(
                    "memcached does not say which port it listens on",
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.borrow().id()
    }

    pub(super) fn check_alive(&self) -> Result<(), Failure> {
        match self.child.borrow_mut().try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::new(format!("memcached has ended: {status}"))),
            Err(error) => Err(Failure::new(format!("waiting for memcached: {error}"))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.borrow_mut();
        // It may have ended by itself, which check_alive reports.
        child.kill().ok();
        child.wait().ok();
    }
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
    })
}

fn parse_port(text: &str) -> Option<u16> {
    text.lines()
        .find_map(|line| line.strip_prefix("TCP INET: "))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::parse_port;

    #[test]
    fn the_port_is_taken_from_memcacheds_file() {
        assert_eq!(parse_port("TCP INET: 40123\nUDP INET: 1\n"), Some(40123));
        assert_eq!(parse_port("UDP INET: 1\n"), None);
        assert_eq!(parse_port(""), None);
    }
}
