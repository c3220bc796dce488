//! A connection that may be misused in every way: what is sent need not be a call, what is
//! answered is only skimmed, and when the server closes it another one takes its place.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// How long the server may leave its end unread.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Wire {
    port: u16,
    stream: TcpStream,
}

impl Wire {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, stream: connect(port) }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // It fails when the server has closed the connection, as it should after garbage.
        if self.stream.write_all(bytes).is_err() {
            self.cut();
        }
    }

    /// What was answered so far and not read yet.
    pub(crate) fn answers(&mut self) -> Vec<u8> {
        let mut answers = Vec::new();
        self.blocks(false);
        // It ends when there is nothing more to read, or when the server has closed.
        let closed = self.stream.read_to_end(&mut answers).is_ok();
        self.blocks(true);
        if closed {
            self.cut();
        }
        answers
    }

    /// Closes it as it is, whatever is under way, and opens another.
    pub(crate) fn cut(&mut self) {
        self.stream = connect(self.port);
    }

    fn blocks(&self, blocks: bool) {
        self.stream.set_nonblocking(!blocks).expect("setting a socket");
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connecting");
    stream.set_nodelay(true).expect("setting a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("setting a socket");
    stream
}
