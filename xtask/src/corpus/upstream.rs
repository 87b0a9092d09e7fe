//! A server behind the programs that are proxies. It answers HTTP with the request itself, or
//! byte by byte, and DNS with a forged client subnet.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::failure::{Context, Failure};

/// A euro sign in UTF-8, and nothing behind it that could complete it.
const DRIPPED: &[u8] = b"\xe2\x82\xac";

/// Bit of a DNS header's third byte: this is a reply.
const IS_REPLY: u8 = 0x80;

/// Starts serving on a port of its own, until the process ends.
pub(super) fn start() -> Result<u16, Failure> {
    let doing = "starting a server for proxies";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(doing)?;
    let address = listener.local_addr().context(doing)?;
    let datagrams = UdpSocket::bind(address).context(doing)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that has gone away is served no more.
            std::thread::spawn(move || serve(&stream).ok());
        }
    });
    std::thread::spawn(move || serve_names(&datagrams).ok());
    Ok(address.port())
}

fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut request)? > 0 && !request.ends_with("\r\n\r\n") {}
    stream.set_nodelay(true)?;
    stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n")?;
    if request.starts_with("GET /drip") {
        for byte in DRIPPED {
            std::thread::sleep(Duration::from_millis(50));
            stream.write_all(&[*byte])?;
        }
        Ok(())
    } else {
        stream.write_all(request.as_bytes())
    }
}

/// A question that ends with a client subnet comes back as a reply to another subnet.
fn serve_names(socket: &UdpSocket) -> std::io::Result<()> {
    let mut message = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut message)?;
        message[2] |= IS_REPLY;
        message[length - 1] ^= 1;
        socket.send_to(&message[..length], client)?;
    }
}
