//! The server that the command line names, and connections to it.

use std::time::Duration;

use anyhow::{Context, Result};
use redis::Client;

use crate::connection::Connection;

/// How long a connection, and then an answer that comes at once, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Address {
    /// The server: redis://[[user]:password@]host[:port][/database], or unix:///socket
    #[arg(
        long,
        global = true,
        env = "GPULOCK_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    url: String,
}

impl Address {
    /// A connection on which an answer may take [`PATIENCE`].
    ///
    /// # Errors
    /// When the address is none, or the server cannot be reached or refuses.
    pub(crate) fn connect(&self) -> Result<Connection> {
        self.connect_within(PATIENCE)
    }

    /// A connection whose making, and any answer on it, may take `patience`.
    ///
    /// # Errors
    /// When the address is none, or the server cannot be reached or refuses.
    pub(crate) fn connect_within(&self, patience: Duration) -> Result<Connection> {
        let client = self.client()?;
        let at = || format!("no connection to {}", self.shown(&client));
        Connection::open(&client, patience).with_context(at)
    }

    /// The client, which is not connected yet.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::open(&*self.url).context("--url is no address of a server")
    }

    /// Where it is, without the password.
    pub(crate) fn shown(&self, client: &Client) -> String {
        client.get_connection_info().addr().to_string()
    }
}
