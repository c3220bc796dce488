//! A server under measure: started by the test kit, spoken to with the field's own client,
//! its CPU time read from the operating system.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use gpulock_testkit::{Builder, Flavour, Server};
use redis::{Client, Connection};

/// A running server; it stops when this is dropped.
pub(crate) struct Served {
    server: Server,
}

impl Served {
    /// Starts a server with the module, or without it when there is none, alone with what
    /// the bench does; more settings by `told`.
    pub(crate) fn start(
        flavour: &Flavour,
        module: Option<&Path>,
        told: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        let builder =
            flavour.server().arg("maxclients", 12_000).arg("tcp-backlog", 4_096);
        let builder = match module {
            Some(module) => builder.module_path(module),
            None => builder.without_module(),
        };
        let server = told(builder).try_start().map_err(anyhow::Error::msg)?;
        Ok(Self { server })
    }

    /// The server itself.
    pub(crate) const fn server(&self) -> &Server {
        &self.server
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let client = Client::open(("127.0.0.1", self.server.port()))?;
        Ok(client.get_connection()?)
    }

    /// CPU time of all its threads so far, user and system, in microseconds.
    pub(crate) fn cpu_us(&self) -> Result<f64> {
        let tasks = format!("/proc/{}/task", self.server.pid());
        let mut nanoseconds = 0_u64;
        for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
            let said = fs::read_to_string(task?.path().join("schedstat"))?;
            let spent = said.split(' ').next().unwrap_or_default();
            nanoseconds += spent.parse::<u64>().context("schedstat")?;
        }
        #[expect(clippy::cast_precision_loss, reason = "below 2^53 for a hundred days")]
        Ok(nanoseconds as f64 / 1e3)
    }
}
