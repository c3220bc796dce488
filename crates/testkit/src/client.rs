//! A raw client over TCP: it sends the bytes of a test and returns the replies of the server
//! unchanged. Sending and reading are separate, for pipelines and blocked clients.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::Value;

/// The time that a reply may take before a test fails.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends a command whose arguments may be text, bytes or numbers, and returns the reply:
/// `call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 1000)`.
#[macro_export]
macro_rules! call {
    ($client:expr, $($arg:expr),+ $(,)?) => {
        $client.cmd(&[$($crate::Arg::bytes(&$arg)),+])
    };
}

/// Like [`call!`], but does not read the reply.
#[macro_export]
macro_rules! send {
    ($client:expr, $($arg:expr),+ $(,)?) => {
        $client.send(&[$($crate::Arg::bytes(&$arg)),+])
    };
}

/// An argument of [`call!`] and [`send!`].
pub trait Arg {
    /// The bytes of the argument.
    fn bytes(&self) -> Vec<u8>;
}

macro_rules! arg_from {
    ($how:ident: $($type:ty),+) => {
        $(impl Arg for $type {
            fn bytes(&self) -> Vec<u8> {
                self.$how().into()
            }
        })+
    };
}
arg_from!(to_string: i16, i32, i64, i128, u8, u16, u32, u64, u128, usize, isize, f64);
arg_from!(to_owned: str, String, [u8], Vec<u8>);

impl<const N: usize> Arg for [u8; N] {
    fn bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl<T: Arg + ?Sized> Arg for &T {
    fn bytes(&self) -> Vec<u8> {
        (**self).bytes()
    }
}

/// One connection to a server. Dropping it closes the connection.
pub struct Client {
    stream: TcpStream,
    /// Received and not parsed yet.
    unread: Vec<u8>,
    /// Pushes that arrived while [`Client::cmd`] waited for its reply.
    pushes: VecDeque<Value>,
    /// The name of the server in panics.
    server: String,
}

impl Client {
    /// Connects to a port of this machine; `server` is its name in panics.
    pub fn connect(port: u16, server: &str) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self {
            stream,
            unread: Vec::new(),
            pushes: VecDeque::new(),
            server: server.to_owned(),
        })
    }

    /// Sends a command and returns its reply. Pushes before it are kept for
    /// [`Client::push_within`]. In RESP3 the reply to SUBSCRIBE is itself a push: use
    /// [`Client::send`] and [`Client::read`].
    #[track_caller]
    pub fn cmd(&mut self, args: &[impl AsRef<[u8]>]) -> Value {
        self.send(args);
        loop {
            match self.read() {
                push @ Value::Push(_) => self.pushes.push_back(push),
                reply => return reply,
            }
        }
    }

    /// [`Client::cmd`] with the arguments in one line, split at spaces.
    #[track_caller]
    pub fn line(&mut self, line: &str) -> Value {
        self.cmd(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Sends a command and does not wait for its reply.
    #[track_caller]
    pub fn send(&mut self, args: &[impl AsRef<[u8]>]) {
        self.send_raw(&encode(args));
    }

    /// Like [`Client::send`], for a server that may be down.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn try_send(&mut self, args: &[impl AsRef<[u8]>]) -> io::Result<()> {
        self.stream.write_all(&encode(args))
    }

    /// Sends several commands in one write, so that the server reads them in one iteration of
    /// its event loop; [`Client::read`] each reply.
    #[track_caller]
    pub fn send_lines(&mut self, lines: &[&str]) {
        self.send_raw(&encode_lines(lines));
    }

    /// Like [`Client::send_lines`], for a server that may be down.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn try_send_lines(&mut self, lines: &[&str]) -> io::Result<()> {
        self.stream.write_all(&encode_lines(lines))
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            panic!("{}: cannot send: {error}", self.server);
        }
    }

    /// The next reply or push. Panics when none arrives within 20 s or the connection is
    /// closed.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        match self.try_read(REPLY_TIMEOUT) {
            Ok(Some(value)) => value,
            Ok(None) => panic!("{}: no reply within {REPLY_TIMEOUT:?}", self.server),
            Err(error) => panic!("{}: no reply: {error}", self.server),
        }
    }

    /// The next value, if it arrives in time. An incomplete value is kept for the next read.
    #[track_caller]
    pub fn read_within(&mut self, timeout: Duration) -> Option<Value> {
        match self.try_read(timeout) {
            Ok(value) => value,
            Err(error) => panic!("{}: no reply: {error}", self.server),
        }
    }

    /// Like [`Client::read_within`], but returns an error when the server closed the
    /// connection.
    pub fn try_read(&mut self, timeout: Duration) -> io::Result<Option<Value>> {
        let deadline = Instant::now() + timeout;
        loop {
            let parsed = Value::parse(&self.unread).map_err(io::Error::other)?;
            if let Some((value, used)) = parsed {
                self.unread.drain(..used);
                return Ok(Some(value));
            }
            // Zero is not a valid timeout of a socket.
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof)),
                Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if left.is_zero() => {
                        return Ok(None);
                    }
                    ErrorKind::WouldBlock
                    | ErrorKind::TimedOut
                    | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// The next push, kept ones first.
    #[track_caller]
    pub fn push_within(&mut self, timeout: Duration) -> Option<Value> {
        self.pushes.pop_front().or_else(|| self.read_within(timeout))
    }

    /// Waits until the server closes this connection. Panics when it does not, or when it sends
    /// something before.
    #[track_caller]
    pub fn wait_closed(&mut self) {
        match self.try_read(REPLY_TIMEOUT) {
            Err(_) => {}
            Ok(Some(value)) => panic!("{}: {value:?} before the close", self.server),
            Ok(None) => {
                panic!("{}: still connected after {REPLY_TIMEOUT:?}", self.server)
            }
        }
    }

    /// Switches this connection to RESP3 and returns the reply of HELLO.
    #[track_caller]
    pub fn hello3(&mut self) -> BTreeMap<String, Value> {
        call!(self, "HELLO", 3).map()
    }

    /// The client id of this connection.
    #[track_caller]
    pub fn id(&mut self) -> i64 {
        call!(self, "CLIENT", "ID").int()
    }

    /// A section of INFO, by field.
    #[track_caller]
    pub fn info(&mut self, section: &str) -> BTreeMap<String, String> {
        call!(self, "INFO", section)
            .text()
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Closes the sending side (FIN); reading still works.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("shutting down a socket");
    }

    /// Closes the connection with a reset (RST), like a machine that crashed and restarted.
    pub fn reset(self) {
        let linger = linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &linger).expect("setting SO_LINGER");
    }
}

/// A command in the protocol: an array of bulk strings.
pub fn encode(args: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Several commands, one a line.
fn encode_lines(lines: &[&str]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| encode(&line.split_whitespace().collect::<Vec<_>>()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let args = [Arg::bytes(&"SET"), Arg::bytes(b"\r\n"), Arg::bytes(&-1)];
        assert_eq!(encode(&args), b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$2\r\n-1\r\n");
    }
}
