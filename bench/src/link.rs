//! A bare connection, for thousands of them in one thread: bytes that were made ready
//! before go out in one write, answers of one line come in. Whoever wants more of a
//! connection asks for the client's own (`served`).

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::served::Served;

/// Space for some answers. The client's own connections take far more.
const BUFFER: usize = 1_024;

/// How long an answer may take: far more than any needs, so that only what hangs fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection to a server. Dropping it closes the connection.
pub(crate) struct Link {
    stream: BufReader<TcpStream>,
}

impl Link {
    /// Connects to a server.
    pub(crate) fn to(served: &Served) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, served.server().port()))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::with_capacity(BUFFER, stream) })
    }

    /// Connects so often, and returns when the server has taken all connections on.
    pub(crate) fn many_to(served: &Served, number: usize) -> Result<Vec<Self>> {
        let mut links: Vec<Self> =
            (0..number).map(|_| Self::to(served)).collect::<Result<_>>()?;
        let ping = packed(&["PING"]);
        for link in &mut links {
            link.send(&ping)?;
            link.answers(1)?;
        }
        Ok(links)
    }

    /// Sends commands made by [`packed`].
    pub(crate) fn send(&mut self, commands: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(commands)?)
    }

    /// Sends a command that waits, and returns when it does: a server carries out all that
    /// came in one piece before it answers, so the PING ahead is answered after that.
    pub(crate) fn wait(&mut self, command: &[u8]) -> Result<()> {
        self.send(&[&*packed(&["PING"]), command].concat())?;
        self.answers(1)
    }

    /// Reads so many answers, each of which must be a number or a status: an error or a
    /// null means that the bench does not measure what it believes.
    pub(crate) fn answers(&mut self, number: usize) -> Result<()> {
        let mut line = Vec::with_capacity(64);
        for _ in 0..number {
            line.clear();
            self.stream.read_until(b'\n', &mut line).context("no answer")?;
            if !matches!(line.first(), Some(b':' | b'+')) {
                bail!("an answer that was not asked for: {:?}", line.escape_ascii());
            }
        }
        Ok(())
    }
}

/// A command as it goes over the wire.
pub(crate) fn packed(words: &[&str]) -> Vec<u8> {
    let (name, arguments) = words.split_first().expect("a command has a name");
    redis::cmd(name).arg(arguments).get_packed_command()
}
