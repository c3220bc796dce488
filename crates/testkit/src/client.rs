//! A raw client over TCP: it sends exactly what a test says and shows exactly what the
//! server answers. Sending and reading are apart, for pipelines and blocked clients.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::Value;

/// How long a reply may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a command whose arguments may be text, bytes or numbers, and returns the
/// answer: `call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 1000)`.
#[macro_export]
macro_rules! call {
    ($client:expr, $($arg:expr),+ $(,)?) => {
        $client.cmd(&[$($crate::Arg::bytes(&$arg)),+])
    };
}

/// Like [`call!`], but leaves the answer to be read later.
#[macro_export]
macro_rules! send {
    ($client:expr, $($arg:expr),+ $(,)?) => {
        $client.send(&[$($crate::Arg::bytes(&$arg)),+])
    };
}

/// What can stand as an argument in [`call!`] and [`send!`].
pub trait Arg {
    /// The argument as it goes over the wire.
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
    /// Read off the socket and not yet parsed.
    unread: Vec<u8>,
    /// Pushes that came while [`Client::cmd`] waited for its answer.
    pushes: VecDeque<Value>,
    /// Whom a failure names.
    server: String,
}

impl Client {
    /// Connects to a port of this machine; `server` names it in failures.
    pub fn connect(port: u16, server: &str) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            unread: Vec::new(),
            pushes: VecDeque::new(),
            server: server.to_owned(),
        })
    }

    /// Sends a command and returns its answer. Pushes on the way are set aside for
    /// [`Client::push_within`]; so in RESP3, where the answer to SUBSCRIBE is itself a
    /// push, use [`Client::send`] and [`Client::read`] for that.
    #[track_caller]
    pub fn cmd(&mut self, args: &[impl AsRef<[u8]>]) -> Value {
        self.send(args);
        loop {
            match self.read() {
                push @ Value::Push(_) => self.pushes.push_back(push),
                answer => return answer,
            }
        }
    }

    /// [`Client::cmd`] with the arguments in one line, split at spaces.
    #[track_caller]
    pub fn line(&mut self, line: &str) -> Value {
        self.cmd(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Sends a command and does not wait for its answer.
    #[track_caller]
    pub fn send(&mut self, args: &[impl AsRef<[u8]>]) {
        self.send_raw(&encode(args));
    }

    /// Like [`Client::send`], where the server may be gone.
    ///
    /// # Errors
    /// When the connection is closed.
    pub fn try_send(&mut self, args: &[impl AsRef<[u8]>]) -> io::Result<()> {
        self.stream.write_all(&encode(args))
    }

    /// Sends several commands in one write, so that the server meets them in one turn
    /// of its loop; [`Client::read`] each answer.
    #[track_caller]
    pub fn send_lines(&mut self, lines: &[&str]) {
        self.send_raw(&encode_lines(lines));
    }

    /// Like [`Client::send_lines`], where the server may be gone.
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

    /// The next value, answer or push; panics when none comes in 20 s or the connection
    /// is closed.
    #[track_caller]
    pub fn read(&mut self) -> Value {
        match self.try_read(PATIENCE) {
            Ok(Some(value)) => value,
            Ok(None) => panic!("{}: no answer within {PATIENCE:?}", self.server),
            Err(error) => panic!("{}: no answer: {error}", self.server),
        }
    }

    /// The next value if it comes in time. What came of it already is kept for the next
    /// read.
    #[track_caller]
    pub fn read_within(&mut self, patience: Duration) -> Option<Value> {
        match self.try_read(patience) {
            Ok(value) => value,
            Err(error) => panic!("{}: no answer: {error}", self.server),
        }
    }

    /// Like [`Client::read_within`]; that the server closed the connection is an error
    /// to look at, no panic.
    pub fn try_read(&mut self, patience: Duration) -> io::Result<Option<Value>> {
        let deadline = Instant::now() + patience;
        loop {
            let parsed = Value::parse(&self.unread).map_err(io::Error::other)?;
            if let Some((value, used)) = parsed {
                self.unread.drain(..used);
                return Ok(Some(value));
            }
            // A socket takes no time-out of zero: it would mean "none".
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

    /// The next push, one set aside first.
    #[track_caller]
    pub fn push_within(&mut self, patience: Duration) -> Option<Value> {
        self.pushes.pop_front().or_else(|| self.read_within(patience))
    }

    /// Waits until the server closes this connection, and panics when it does not, or
    /// says something before.
    #[track_caller]
    pub fn wait_closed(&mut self) {
        match self.try_read(PATIENCE) {
            Err(_) => {}
            Ok(Some(value)) => panic!("{}: {value:?} before the close", self.server),
            Ok(None) => panic!("{}: still connected after {PATIENCE:?}", self.server),
        }
    }

    /// Changes this connection to RESP3 and returns what the server says of itself.
    #[track_caller]
    pub fn hello3(&mut self) -> BTreeMap<String, Value> {
        call!(self, "HELLO", 3).map()
    }

    /// The number by which the server knows this connection.
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

    /// Says that nothing more will be sent (FIN), and can still read.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("shutting down a socket");
    }

    /// Ends the connection with a reset (RST), as a machine that crashed and came back
    /// would.
    pub fn reset(self) {
        let linger = linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &linger).expect("setting SO_LINGER");
    }
}

/// A command as it goes over the wire: an array of bulk strings.
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

/// Several commands, each in one line, behind one another.
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
