//! A minimal connection, for thousands of them in one thread: it writes encoded commands
//! and reads single-line replies. For everything else there is [`BenchServer::connect`].

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::server::BenchServer;

/// Buffer size, far smaller than that of the redis crate.
const BUFFER: usize = 1_024;

/// Read timeout, long enough that it only expires if the server hangs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One connection to a server. Dropping it closes the connection.
pub(crate) struct RawConnection {
    stream: BufReader<TcpStream>,
}

impl RawConnection {
    /// Connects to a server.
    pub(crate) fn connect(server: &BenchServer) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.process().port()))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream: BufReader::with_capacity(BUFFER, stream) })
    }

    /// Opens `count` connections, and returns when the server has accepted all of them.
    pub(crate) fn connect_many(server: &BenchServer, count: usize) -> Result<Vec<Self>> {
        let mut connections: Vec<Self> =
            (0..count).map(|_| Self::connect(server)).collect::<Result<_>>()?;
        let ping = encode(&["PING"]);
        for connection in &mut connections {
            connection.send(&ping)?;
            connection.read_replies(1)?;
        }
        Ok(connections)
    }

    /// Sends commands encoded by [`encode`].
    pub(crate) fn send(&mut self, commands: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(commands)?)
    }

    /// Sends a blocking command, and returns when the server has executed it. A PING is
    /// sent before it in the same write: the server executes everything it has read before
    /// it replies.
    pub(crate) fn send_blocking(&mut self, command: &[u8]) -> Result<()> {
        self.send(&[&*encode(&["PING"]), command].concat())?;
        self.read_replies(1)
    }

    /// Reads `count` replies. Each must be an integer or a status: an error or a null means
    /// that the benchmark does not measure what it should.
    pub(crate) fn read_replies(&mut self, count: usize) -> Result<()> {
        let mut line = Vec::with_capacity(64);
        for _ in 0..count {
            line.clear();
            self.stream.read_until(b'\n', &mut line).context("failed to read a reply")?;
            if !matches!(line.first(), Some(b':' | b'+')) {
                bail!("unexpected reply: {:?}", line.escape_ascii());
            }
        }
        Ok(())
    }
}

/// Encodes a command for the wire.
pub(crate) fn encode(words: &[&str]) -> Vec<u8> {
    let (name, arguments) = words.split_first().expect("a command has a name");
    redis::cmd(name).arg(arguments).get_packed_command()
}
