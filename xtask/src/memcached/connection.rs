//! One client connection: requests out, replies in, line by line or by length.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A reply that takes longer is a lost one.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer lines are no replies of memcached.
const MAX_LINE: u64 = 4096;

/// A connection whose replies are read in the order of the requests.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub(super) fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(requests)
    }

    /// One line without its line end. An end of file is an error: nobody asked to quit.
    pub(super) fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)?;
        let text = line
            .strip_suffix(b"\r\n")
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// A data block and the line end behind it.
    pub(super) fn read_block(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut block = vec![0; length + 2];
        self.stream.read_exact(&mut block)?;
        if block.split_off(length) == b"\r\n" {
            Ok(block)
        } else {
            let message = "no line end behind a data block";
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}
