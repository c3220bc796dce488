//! Commands encoded once and sent many times in one pipeline, so that the client uses as
//! little CPU as possible.

use anyhow::{Result, ensure};
use redis::{Cmd, Connection, ConnectionLike, Value};

/// Encoded commands, sent in one write.
pub(crate) struct Pipeline {
    bytes: Vec<u8>,
    commands: usize,
}

impl Pipeline {
    /// Encodes the commands.
    pub(crate) fn new<'a>(commands: impl IntoIterator<Item = &'a Cmd>) -> Self {
        let mut pipeline = Self { bytes: Vec::new(), commands: 0 };
        for command in commands {
            command.write_packed_command(&mut pipeline.bytes);
            pipeline.commands += 1;
        }
        pipeline
    }

    /// Sends the commands and reads all replies. A refusal aborts the benchmark, because it
    /// would measure something else.
    pub(crate) fn send(&self, connection: &mut Connection) -> Result<()> {
        for reply in connection.req_packed_commands(&self.bytes, 0, self.commands)? {
            let refused =
                matches!(reply, Value::Nil | Value::Int(0) | Value::ServerError(_));
            ensure!(!refused, "a measured command failed: {reply:?}");
        }
        Ok(())
    }

    /// Sends the pipeline `times` times.
    pub(crate) fn send_times(
        &self,
        connection: &mut Connection,
        times: usize,
    ) -> Result<()> {
        (0..times).try_for_each(|_| self.send(connection))
    }
}
