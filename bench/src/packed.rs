//! Commands packed once and sent many times in one pipeline: the client takes as little of
//! the machine as it can, so that what is measured is the server. Nothing here knows what
//! the commands are for.

use anyhow::{Result, ensure};
use redis::{Cmd, Connection, ConnectionLike, Value};

/// Commands as they go over the wire, all at once.
pub(crate) struct Packed {
    bytes: Vec<u8>,
    commands: usize,
}

impl Packed {
    /// Packs the commands.
    pub(crate) fn new<'a>(commands: impl IntoIterator<Item = &'a Cmd>) -> Self {
        let mut packed = Self { bytes: Vec::new(), commands: 0 };
        for command in commands {
            command.write_packed_command(&mut packed.bytes);
            packed.commands += 1;
        }
        packed
    }

    /// Sends all and reads all answers. A refusal would be another measurement than the
    /// one that is named, so that it ends the bench.
    pub(crate) fn send(&self, connection: &mut Connection) -> Result<()> {
        for answer in connection.req_packed_commands(&self.bytes, 0, self.commands)? {
            let refused =
                matches!(answer, Value::Nil | Value::Int(0) | Value::ServerError(_));
            ensure!(!refused, "a command under measure was answered {answer:?}");
        }
        Ok(())
    }
    /// Does that so many times.
    pub(crate) fn send_times(
        &self,
        connection: &mut Connection,
        times: usize,
    ) -> Result<()> {
        (0..times).try_for_each(|_| self.send(connection))
    }
}
