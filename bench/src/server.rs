//! A benchmarked server: started by the test kit, accessed with the redis crate; its CPU
//! time is read from /proc.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use gpulock_testkit::{Builder, Flavour, Server};
use redis::{Client, Connection};

/// A running server. Dropping it stops the server.
pub(crate) struct BenchServer {
    process: Server,
}

impl BenchServer {
    /// Starts a server, with the module if there is one, and with the settings added by
    /// `configure`.
    pub(crate) fn start(
        flavour: &Flavour,
        module: Option<&Path>,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        let builder =
            flavour.server().arg("maxclients", 12_000).arg("tcp-backlog", 4_096);
        let builder = match module {
            Some(module) => builder.module_path(module),
            None => builder.without_module(),
        };
        let process = configure(builder).try_start().map_err(anyhow::Error::msg)?;
        Ok(Self { process })
    }

    /// The test kit's handle of the server process.
    pub(crate) const fn process(&self) -> &Server {
        &self.process
    }

    /// Opens a connection.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let client = Client::open(("127.0.0.1", self.process.port()))?;
        Ok(client.get_connection()?)
    }

    /// CPU time of all threads of the process, user and system, in microseconds.
    pub(crate) fn cpu_us(&self) -> Result<f64> {
        let tasks = format!("/proc/{}/task", self.process.pid());
        let mut nanoseconds = 0_u64;
        for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
            let on_cpu = schedstat.split(' ').next().unwrap_or_default();
            nanoseconds += on_cpu.parse::<u64>().context("schedstat")?;
        }
        #[expect(clippy::cast_precision_loss, reason = "below 2^53 for a hundred days")]
        Ok(nanoseconds as f64 / 1e3)
    }
}
