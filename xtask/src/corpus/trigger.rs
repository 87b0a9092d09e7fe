//! What shows whether a running program has a fix.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::running::Running;
use crate::failure::{Context, Failure};

/// How long something may take to be answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a program is silent before it counts as waiting for more.
const SILENCE: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(50);

/// Something to say to a program that it answers in one way with a fix and in another without.
pub(super) struct Trigger {
    pub(super) to: Recipient,
    /// Parts, with a short pause behind each. COUNT in them is another number of five digits
    /// each time, UPSTREAM a port.
    pub(super) send: &'static [&'static [u8]],
    pub(super) vulnerable: Answer,
    pub(super) fixed: Answer,
}

/// Where it is said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipient {
    /// A connection to the first port.
    Port,
    /// A connection to the second port.
    Second,
    /// A datagram to the first port.
    Datagram,
    /// Standard input.
    Input,
}

/// What a program does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It replies, or prints, something that contains this.
    Says(&'static str),
    /// It closes the connection and has not said what the other answer is.
    Closes,
    /// It says nothing of interest and waits.
    Waits,
}

/// Whether a program has a fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Vulnerable,
    Fixed,
}

/// What has been heard from a program.
struct Heard {
    reply: Vec<u8>,
    closed: bool,
    silent: bool,
}

impl Trigger {
    /// Tries it on a running program, which must do as it does in that state.
    pub(super) fn expect(&self, running: &mut Running, expected: State) -> Result<(), Failure> {
        let found = self.observe(running)?;
        if found == expected {
            Ok(())
        } else {
            let message = format!("the program is {found:?} and should be {expected:?}");
            Err(Failure::new(message))
        }
    }

    fn observe(&self, running: &mut Running) -> Result<State, Failure> {
        let mut printed = running.mark_output()?;
        let mut connection = Connection::open(self.to, running)?;
        let count = format!("{:05}", running.next_count());
        let upstream = running.places().upstream.to_string();
        for part in self.send {
            let part = fill(&fill(part, "COUNT", &count), "UPSTREAM", &upstream);
            connection.send(&part, running)?;
            std::thread::sleep(PAUSE);
        }
        let started = Instant::now();
        let mut heard = Heard {
            reply: Vec::new(),
            closed: false,
            silent: false,
        };
        loop {
            connection.receive(&mut heard)?;
            let output = running.output_since(&mut printed)?;
            heard.reply.extend(output);
            running.check_alive()?;
            heard.silent = started.elapsed() > SILENCE;
            if let Some(state) = self.judge(&heard)? {
                return Ok(state);
            }
            if started.elapsed() > PATIENCE {
                return Err(Failure::new(format!(
                    "neither the answer with the fix ({:?}) nor the one without ({:?}) came: {:?}",
                    self.fixed,
                    self.vulnerable,
                    String::from_utf8_lossy(&heard.reply)
                )));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn judge(&self, heard: &Heard) -> Result<Option<State>, Failure> {
        let states = [
            (self.vulnerable, State::Vulnerable),
            (self.fixed, State::Fixed),
        ];
        let found = |wanted: &dyn Fn(Answer) -> bool| {
            let mut states = states.iter().filter(|(answer, _)| wanted(*answer));
            (states.next().map(|it| it.1), states.next().is_some())
        };
        let said = found(&|answer| matches!(answer, Answer::Says(text) if heard.contains(text)));
        match said {
            (_, true) => Err(Failure::new(format!(
                "both answers came: {:?}",
                String::from_utf8_lossy(&heard.reply)
            ))),
            (Some(state), false) => Ok(Some(state)),
            (None, false) if heard.closed => Ok(found(&|answer| answer == Answer::Closes).0),
            (None, false) if heard.silent => Ok(found(&|answer| answer == Answer::Waits).0),
            (None, false) => Ok(None),
        }
    }
}

impl Heard {
    fn contains(&self, text: &str) -> bool {
        let text = text.as_bytes();
        self.reply.windows(text.len()).any(|part| part == text)
    }
}

/// A copy with another text in place of a placeholder.
fn fill(part: &[u8], placeholder: &str, text: &str) -> Vec<u8> {
    let mut windows = part.windows(placeholder.len());
    match windows.position(|window| window == placeholder.as_bytes()) {
        Some(at) => {
            let rest = &part[at + placeholder.len()..];
            [&part[..at], text.as_bytes(), rest].concat()
        }
        None => part.to_vec(),
    }
}

enum Connection {
    Stream(TcpStream),
    Datagrams(UdpSocket),
    Input,
}

impl Connection {
    fn open(to: Recipient, running: &Running) -> Result<Self, Failure> {
        let doing = "connecting to the program";
        let places = running.places();
        let address = match to {
            Recipient::Second => ("127.0.0.1", places.second),
            _ => ("127.0.0.1", places.port),
        };
        match to {
            Recipient::Port | Recipient::Second => {
                let stream = TcpStream::connect(address).context(doing)?;
                stream.set_read_timeout(Some(PAUSE)).context(doing)?;
                Ok(Self::Stream(stream))
            }
            Recipient::Datagram => {
                let socket = UdpSocket::bind(("127.0.0.1", 0)).context(doing)?;
                socket.connect(address).context(doing)?;
                socket.set_read_timeout(Some(PAUSE)).context(doing)?;
                Ok(Self::Datagrams(socket))
            }
            Recipient::Input => Ok(Self::Input),
        }
    }

    fn send(&mut self, bytes: &[u8], running: &mut Running) -> Result<(), Failure> {
        let sent = match self {
            // The program may have closed the connection already, which is an answer.
            Self::Stream(stream) => match stream.write_all(bytes) {
                Err(error) if is_closed(error.kind()) => Ok(()),
                other => other,
            },
            Self::Datagrams(socket) => socket.send(bytes).map(drop),
            Self::Input => return running.write_input(bytes),
        };
        sent.context("sending to the program")
    }

    fn receive(&mut self, heard: &mut Heard) -> Result<(), Failure> {
        let mut buffer = [0; 65536];
        let received = match self {
            Self::Stream(stream) => stream.read(&mut buffer),
            Self::Datagrams(socket) => socket.recv(&mut buffer),
            Self::Input => return Ok(()),
        };
        match received {
            Ok(0) => heard.closed = true,
            Ok(length) => heard.reply.extend(&buffer[..length]),
            Err(error) if is_closed(error.kind()) => heard.closed = true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("reading from the program"),
        }
        Ok(())
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::{Answer, Heard, Recipient, State, Trigger, fill};

    const TRIGGER: Trigger = Trigger {
        to: Recipient::Port,
        send: &[],
        vulnerable: Answer::Waits,
        fixed: Answer::Says("refused"),
    };

    fn judge(reply: &str, closed: bool, silent: bool) -> Option<State> {
        let heard = Heard {
            reply: reply.as_bytes().to_vec(),
            closed,
            silent,
        };
        TRIGGER.judge(&heard).expect("one answer")
    }

    #[test]
    fn an_answer_is_told_from_the_other_one() {
        assert_eq!(judge("it is refused", true, true), Some(State::Fixed));
        assert_eq!(judge("", false, true), Some(State::Vulnerable));
        assert_eq!(judge("", false, false), None);
        assert_eq!(judge("", true, true), None);
    }

    #[test]
    fn placeholders_are_filled() {
        assert_eq!(fill(b"key-COUNT\r\n", "COUNT", "00007"), b"key-00007\r\n");
        assert_eq!(fill(b"plain", "COUNT", "00007"), b"plain");
    }
}
