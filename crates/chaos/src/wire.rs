//! A connection of the load. Unlike the test kit's it takes a broken connection as a result,
//! since most of what is done here breaks some; and it is made for many small calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use gpulock_testkit::Value;

pub(crate) struct Wire {
    stream: TcpStream,
    /// Read off the socket and not yet parsed.
    unread: Vec<u8>,
    /// What the socket's time-out is set to.
    patience: Option<Duration>,
}

impl Wire {
    pub(crate) fn connect(address: (Ipv4Addr, u16)) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new(), patience: None })
    }

    pub(crate) fn send(&mut self, words: &[String]) -> io::Result<()> {
        self.stream.write_all(&encode(words))
    }

    /// Sends a command without its end.
    pub(crate) fn send_half(&mut self, words: &[String]) -> io::Result<()> {
        let bytes = encode(words);
        self.stream.write_all(&bytes[..bytes.len() / 2])
    }

    /// The next answer; none when it does not come in time.
    pub(crate) fn read(&mut self, patience: Duration) -> io::Result<Option<Value>> {
        if self.patience != Some(patience) {
            self.stream.set_read_timeout(Some(patience))?;
            self.patience = Some(patience);
        }
        let start = Instant::now();
        loop {
            let parsed = Value::parse(&self.unread).map_err(io::Error::other)?;
            if let Some((value, used)) = parsed {
                self.unread.drain(..used);
                // What others publish is no answer.
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
                    ErrorKind::Interrupted if start.elapsed() < patience => {}
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
