//! A connection of the load. Unlike the test kit's client, it returns an error if the
//! connection breaks, which most faults cause, and it is optimized for many small calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use gpulock_testkit::Value;

pub(crate) struct Wire {
    stream: TcpStream,
    /// Bytes received but not parsed yet.
    unread: Vec<u8>,
    /// The current read timeout of the socket.
    timeout: Option<Duration>,
}

impl Wire {
    pub(crate) fn connect(address: (Ipv4Addr, u16)) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new(), timeout: None })
    }

    pub(crate) fn send(&mut self, words: &[String]) -> io::Result<()> {
        self.stream.write_all(&encode(words))
    }

    /// Sends only the first half of a command.
    pub(crate) fn send_half(&mut self, words: &[String]) -> io::Result<()> {
        let bytes = encode(words);
        self.stream.write_all(&bytes[..bytes.len() / 2])
    }

    /// The next reply; none after the timeout.
    pub(crate) fn read(&mut self, timeout: Duration) -> io::Result<Option<Value>> {
        if self.timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.timeout = Some(timeout);
        }
        let start = Instant::now();
        loop {
            let parsed = Value::parse(&self.unread).map_err(io::Error::other)?;
            if let Some((value, used)) = parsed {
                self.unread.drain(..used);
                // Published messages are not replies.
                if matches!(value, Value::Push(_)) {
                    continue;
                }
                return Ok(Some(value));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof)),
                Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(None),
                    ErrorKind::Interrupted if start.elapsed() < timeout => {}
                    ErrorKind::Interrupted => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }
}

/// A command as an array of bulk strings.
fn encode(words: &[String]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        // Writing to memory does not fail.
        let _ = write!(bytes, "${}\r\n{word}\r\n", word.len());
    }
    bytes
}
