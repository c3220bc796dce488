//! The server that the command line names, and connections to it.

use std::time::Duration;

use anyhow::{Context, Result};
use redis::Client;

use crate::connection::Connection;

/// Default timeout for connecting, and for each call that does not wait for a lock.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The accepted forms of an address.
const FORMS: &str = "redis://[[user]:password@]host[:port][/database] or unix:///socket";

/// The address of a server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Address {
    #[arg(
        long,
        help = format!("Server: {FORMS}"),
        global = true,
        display_order = 998, // last, before --help
        env = "GPULOCK_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    url: String,
}

impl Address {
    /// Connects with the default timeout.
    ///
    /// # Errors
    /// If the address is invalid, or the server cannot be reached or rejects the connection.
    pub(crate) fn connect(&self) -> Result<Connection> {
        self.connect_within(TIMEOUT)
    }

    /// Connects with another timeout, which is also the timeout of each call.
    ///
    /// # Errors
    /// If the address is invalid, or the server cannot be reached or rejects the connection.
    pub(crate) fn connect_within(&self, timeout: Duration) -> Result<Connection> {
        let client = self.client()?;
        let to = || format!("failed to connect to {}", self.shown(&client));
        Connection::open(&client, timeout).with_context(to)
    }

    /// A client that is not connected yet.
    ///
    /// # Errors
    /// If the address is invalid.
    pub(crate) fn client(&self) -> Result<Client> {
        client("--url", &self.url)
    }

    /// The address without the password.
    pub(crate) fn shown(&self, client: &Client) -> String {
        client.get_connection_info().addr().to_string()
    }
}

/// A client for the address that an option gives.
///
/// # Errors
/// If the address is invalid.
pub(crate) fn client(option: &str, url: &str) -> Result<Client> {
    Client::open(url).with_context(|| {
        let shown =
            if may_contain_password(url) { "address" } else { &format!("{url:?}") };
        format!("invalid {option} {shown}: expected {FORMS}")
    })
}

/// An error message must not print a password, even if the address cannot be parsed.
fn may_contain_password(url: &str) -> bool {
    let after_scheme = url.split_once(':').map_or(url, |(_, rest)| rest);
    after_scheme.contains([':', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_address_unless_it_may_contain_a_password() {
        let message = |url| client("--url", url).unwrap_err().to_string();
        let expected = "invalid --url \"redis:/x\": expected redis://";
        assert!(message("redis:/x").starts_with(expected), "{}", message("redis:/x"));
        for url in ["redis://me:secret@host:x", "redis://:secret", "me:secret@host"] {
            assert!(message(url).starts_with("invalid --url address: expected redis://"));
            assert!(!message(url).contains("secret"), "{}", message(url));
        }
    }
}
