//! A connection that sends any bytes, skims the replies, and reconnects when the server
//! closes it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use super::clock::DEADLINE;

pub(crate) struct RawConnection {
    port: u16,
    stream: TcpStream,
}

impl RawConnection {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, stream: connect(port) }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // It fails when the server has closed the connection, as it should after garbage.
        if self.stream.write_all(bytes).is_err() {
            self.reconnect();
        }
    }

    /// The bytes that the server has sent and that were not read yet.
    pub(crate) fn replies(&mut self) -> Vec<u8> {
        let mut replies = Vec::new();
        self.set_blocking(false);
        // It ends when there is nothing more to read, or when the server has closed.
        let closed = self.stream.read_to_end(&mut replies).is_ok();
        self.set_blocking(true);
        if closed {
            self.reconnect();
        }
        replies
    }

    /// Closes the connection, also in the middle of a call, and opens another.
    pub(crate) fn reconnect(&mut self) {
        self.stream = connect(self.port);
    }

    fn set_blocking(&self, blocking: bool) {
        self.stream.set_nonblocking(!blocking).expect("setting a socket option");
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connecting");
    stream.set_nodelay(true).expect("setting a socket option");
    stream.set_write_timeout(Some(DEADLINE)).expect("setting a socket option");
    stream
}
