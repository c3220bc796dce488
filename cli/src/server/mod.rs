//! The server that the command line names, and connections to it.
//!
//! # Layout
//! - [`address`]: the forms of an address; [`credentials`], [`tls`]: what is needed beside it
//! - [`sentinel`]: finds the primary of a service; [`cluster`]: finds the node of a lock
//! - [`link`]: a connection to one server, from the handshake on; [`stream`]: below it

pub(crate) mod address;
mod cluster;
pub(crate) mod credentials;
pub(crate) mod link;
mod sentinel;
mod stream;
mod tls;

use std::env::{self, VarError};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::RedisError;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ClientConfig;

use self::address::{Endpoint, FORMS, Parsed, Place};
use self::cluster::Route;
use self::credentials::Credentials;
use self::link::{Link, Login};
use crate::connection::{Connection, timed_out};
use crate::exit::Failure;

/// Default timeout for connecting, and for each call that does not wait for a lock.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a server is looked for again, while a failover is in progress.
const PAUSE: Duration = Duration::from_millis(100);

/// The variable for `--url`.
pub(crate) const URL: &str = "GPULOCK_URL";

/// The variable for the exporter's `--server`.
pub(crate) const SERVERS: &str = "GPULOCK_SERVERS";

/// The address if none is given.
const DEFAULT_URL: &str = "redis://127.0.0.1:6379";

/// The heading of the options that name a server, in the help of each subcommand.
const HEADING: &str = "Server";

/// The options that name a server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Address {
    // Not with clap's `env`: messages say whether the option or the variable is invalid.
    #[arg(
        long,
        help = format!("Server: {FORMS} [env: {URL}] [default: {DEFAULT_URL}]"),
        global = true,
        help_heading = HEADING,
    )]
    url: Option<String>,
    /// File with the server's password in its first line [default: the password in the URL, or
    /// that of the variable REDISCLI_AUTH]
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    tls: tls::Options,
    /// The lock that the connections are for.
    #[arg(skip)]
    slot: Option<u16>,
    /// Shared by all clones.
    #[arg(skip)]
    server: Arc<OnceLock<Arc<Server>>>,
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `--url`
    Url,
    /// `--server`
    Server,
    /// A variable.
    Variable(&'static str),
}

/// A server and how to reach it, ready to connect.
#[derive(Debug)]
pub(crate) struct Server {
    place: Place,
    shown: String,
    tls: Option<Arc<ClientConfig>>,
    credentials: Credentials,
    is_password_optional: bool,
    database: i64,
    /// The slot of the lock that the connections are for; None if they are not for one lock.
    slot: Option<u16>,
    /// What is known about the cluster.
    route: Route,
}

impl Address {
    /// The same address, for connections that are used for this lock, and for others with the same
    /// hash tag: in a cluster they lead to the node that serves it.
    pub(crate) fn for_key(&self, key: &[u8]) -> Self {
        Self { slot: Some(cluster::slot(key)), server: Arc::default(), ..self.clone() }
    }

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
        Connection::open(self.server()?, timeout)
    }

    /// The address without user and password.
    ///
    /// # Errors
    /// If the address is invalid.
    pub(crate) fn shown(&self) -> Result<String> {
        Ok(self.server()?.shown.clone())
    }

    /// The server, with its password and certificates. They are read the first time.
    ///
    /// # Errors
    /// If an option or a variable is invalid.
    pub(crate) fn server(&self) -> Result<Arc<Server>> {
        if let Some(server) = self.server.get() {
            return Ok(Arc::clone(server));
        }
        let (source, url) = match &self.url {
            Some(url) => (Source::Url, url.clone()),
            None => match variable(URL)? {
                Some(url) => (Source::Variable(URL), url),
                None => (Source::Url, DEFAULT_URL.to_owned()),
            },
        };
        let mut servers = self.servers_at(source, &[url])?;
        let server = servers.pop().context("no server")?;
        Ok(Arc::clone(self.server.get_or_init(|| server)))
    }

    /// The servers at other addresses, with the same options.
    ///
    /// # Errors
    /// If an option or a variable is invalid, or an option is for TLS and no address uses it.
    pub(crate) fn servers_at(
        &self,
        source: Source,
        urls: &[String],
    ) -> Result<Vec<Arc<Server>>> {
        let parsed = urls.iter().map(|url| Parsed::of(source, url));
        let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(Failure::usage)?;
        let uses_tls = parsed.iter().any(|one| one.uses_tls);
        if let (Some(option), false) = (self.tls.given(), uses_tls) {
            let why =
                format!("{option} needs an address with TLS, such as rediss://host");
            return Err(Failure::usage(why).into());
        }
        let tls = uses_tls.then(|| self.tls.config()).transpose()?;
        let given =
            self.password_file.as_deref().map(credentials::from_file).transpose()?;
        let ambient = credentials::from_environment()?;
        let server = |parsed: Parsed| {
            let shown = parsed.shown();
            let Credentials { user, password } = parsed.credentials;
            let password = given.clone().or(password);
            let is_password_optional = password.is_none();
            let password = password.or_else(|| ambient.clone());
            Arc::new(Server {
                place: parsed.place,
                shown,
                tls: tls.clone().filter(|_| parsed.uses_tls),
                credentials: Credentials { user, password },
                is_password_optional,
                database: parsed.database,
                slot: self.slot,
                route: Route::default(),
            })
        };
        Ok(parsed.into_iter().map(server).collect())
    }
}

impl Server {
    /// Its name in messages and labels: the address without user and password.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects within this time: to the primary that the Sentinels report, or to the cluster node
    /// that serves the lock.
    ///
    /// # Errors
    /// If no such server can be reached in time, or it rejects the connection.
    pub(crate) async fn open(&self, within: Duration) -> Result<Link> {
        let limit = Limit::of(within);
        match &self.place {
            Place::Server(seed) => cluster::open(self, seed, limit).await,
            Place::Sentinel { sentinels, service } => {
                sentinel::open(self, sentinels, service, limit).await
            }
        }
    }

    /// Remembers where a cluster node redirected a call. Returns whether the error is a redirection.
    pub(crate) fn redirect(&self, error: &RedisError, from: &Endpoint) -> bool {
        self.route.redirect(error, from)
    }

    /// Connects to a server that holds data.
    async fn open_endpoint(&self, endpoint: &Endpoint, within: Duration) -> Result<Link> {
        let opened = Link::open(endpoint, self.tls.as_ref(), self.login());
        let opened = timeout(within, opened).await;
        let link = match opened {
            Ok(opened) => opened?,
            // A server without TLS waits for the rest of what it takes for a command.
            Err(_) if self.tls.is_some() => {
                let why = format!("{}; is there TLS at this port?", timed_out(within));
                return Err(Failure::unreachable(why).into());
            }
            Err(_) => return Err(timed_out(within).into()),
        };
        if link.is_sentinel() {
            bail!("it is a Sentinel: use redis+sentinel://{endpoint}/SERVICE");
        }
        Ok(link)
    }

    fn login(&self) -> Login<'_> {
        Login {
            user: self.credentials.user.as_deref(),
            password: self.credentials.password.as_deref(),
            is_password_optional: self.is_password_optional,
            database: self.database,
        }
    }
}

/// The time in which one of several servers must be reached.
#[derive(Clone, Copy, Debug)]
struct Limit {
    end: Instant,
    /// How long one of them may take.
    share: Duration,
}

impl Limit {
    fn of(within: Duration) -> Self {
        const MAX_SHARE: Duration = Duration::from_secs(1);
        Self { end: Instant::now() + within, share: (within / 4).min(MAX_SHARE) }
    }

    /// The remaining time.
    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// The time for one of several servers.
    fn share(self) -> Duration {
        self.share.min(self.left())
    }

    /// Whether there is time for another attempt after a pause.
    fn allows_retry(self) -> bool {
        self.left() > PAUSE + self.share
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "--url",
            Self::Server => "--server",
            Self::Variable(name) => name,
        })
    }
}

/// The value of a variable; None if it is not set.
///
/// # Errors
/// If it is not valid UTF-8.
pub(crate) fn variable(name: &str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("invalid {name}: it is not valid UTF-8")).into())
        }
    }
}
