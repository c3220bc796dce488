//! One connection to one server, and the handshake that begins it. All its commands are sent at
//! once, so that it takes one round trip.

use std::fmt;
use std::sync::Arc;

use anyhow::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Parser, RedisConnectionInfo, RedisError,
    RedisResult, Value, cmd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{AbortHandle, spawn};
use tokio_rustls::rustls::ClientConfig;

use crate::exit::Failure;
use crate::replies::{Fields, server_error};
use crate::server::address::Endpoint;
use crate::server::stream::{self, Io};
use crate::server::tls;

/// An open connection. Dropping it closes it, even during a call.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) redis: MultiplexedConnection,
    /// Where it leads.
    pub(crate) endpoint: Endpoint,
    /// Whether each command must be preceded by ASKING: the cluster node does not serve the slot
    /// of the keys yet.
    pub(crate) is_asking: bool,
    hello: Hello,
    io: AbortHandle,
}

/// What the server reports about itself, each None if it does not.
#[derive(Debug, Default)]
struct Hello {
    mode: Option<String>,
    role: Option<String>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.io.abort();
    }
}

/// The server requires a password, and none was given.
#[derive(Debug)]
pub(crate) struct MissingPassword(String);

impl fmt::Display for MissingPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MissingPassword {}

/// What the server is asked for at the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Login<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    /// Do without the password if the server requires none: it was not meant for this server
    /// alone.
    pub(crate) is_password_optional: bool,
    pub(crate) database: i64,
}

impl Link {
    /// Connects and authenticates, without a timeout.
    ///
    /// # Errors
    /// If the server cannot be reached, or rejects the connection.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        login: Login<'_>,
    ) -> Result<Self> {
        let mut stream = stream::open(endpoint, tls).await.map_err(RedisError::from)?;
        // The handshake is ours: the library's hides what the server replies.
        let hello = introduce(&mut stream, login, tls.is_some()).await?;
        let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&settings, stream, config);
        let (redis, io) = opened.await?;
        let (endpoint, io) = (endpoint.clone(), spawn(io).abort_handle());
        Ok(Self { redis, endpoint, is_asking: false, hello, io })
    }

    /// Whether the server is a node of a cluster.
    pub(crate) fn is_cluster_node(&self) -> bool {
        self.hello.mode.as_deref() == Some("cluster")
    }

    /// Whether the server is a Sentinel.
    pub(crate) fn is_sentinel(&self) -> bool {
        self.hello.mode.as_deref() == Some("sentinel")
    }

    /// Whether the server reports that it is a primary.
    pub(crate) fn is_primary(&self) -> bool {
        self.hello.role.as_deref() == Some("master")
    }
}

async fn introduce(
    stream: &mut Box<dyn Io>,
    login: Login<'_>,
    uses_tls: bool,
) -> Result<Hello> {
    let mut replies = exchange(stream, &introduction(login)).await;
    // Whatever the reason was, the server gave it before it closed the connection.
    if replies
        .iter()
        .any(|reply| reply.as_ref().is_err_and(|error| error.code().is_none()))
    {
        let why = replies.into_iter().find_map(RedisResult::err);
        return Err(rejected(why.unwrap_or_else(no_reply), uses_tls));
    }
    let mut replies = replies.drain(..);
    let mut next = || replies.next().unwrap_or_else(|| Err(no_reply()));
    if login.password.is_some()
        && let Err(error) = next()
        && !(login.is_password_optional && requires_no_password(&error))
    {
        return Err(server_error(error));
    }
    let hello = match next() {
        Ok(hello) => Hello::read(hello)?,
        Err(error) if error.code() == Some("NOAUTH") => {
            return Err(missing_password(stream).await);
        }
        // A proxy may not know HELLO.
        Err(_) => Hello::default(),
    };
    if login.database != 0 {
        next().map_err(server_error)?;
    }
    Ok(hello)
}

/// Sends all commands at once, and reads their replies. A server that rejects the connection
/// replies to the first one only, and closes it.
async fn exchange(stream: &mut Box<dyn Io>, commands: &[Cmd]) -> Vec<RedisResult<Value>> {
    let request: Vec<u8> = commands.iter().flat_map(Cmd::get_packed_command).collect();
    // If the server has closed the connection already, its reply can still be read.
    let _closed = stream.write_all(&request).await;
    let _closed = stream.flush().await;
    let mut received = Vec::new();
    loop {
        let (mut replies, is_complete) = parse_replies(&received, commands.len());
        if is_complete {
            return replies;
        }
        match stream.read_buf(&mut received).await {
            Ok(0) => replies.push(Err(no_reply())),
            Ok(_) => continue,
            Err(error) => replies.push(Err(tls::explain(error).into())),
        }
        return replies;
    }
}

/// The replies that were received so far, and whether more cannot be expected.
fn parse_replies(mut received: &[u8], count: usize) -> (Vec<RedisResult<Value>>, bool) {
    let mut parser = Parser::new();
    let mut replies = Vec::new();
    while replies.len() < count {
        match parser.parse_value(&mut received) {
            Ok(Value::ServerError(error)) => replies.push(Err(error.into())),
            Ok(reply) => replies.push(Ok(reply)),
            Err(error) if error.kind() == ErrorKind::Parse => {
                replies.push(Err(error));
                return (replies, true);
            }
            Err(_incomplete) => return (replies, false),
        }
    }
    (replies, true)
}

/// The error for a missing password: that of PING, because HELLO's is about its options.
async fn missing_password(stream: &mut Box<dyn Io>) -> Error {
    let reply = exchange(stream, &[cmd("PING")]).await.pop();
    let error = reply.and_then(RedisResult::err).unwrap_or_else(no_reply);
    MissingPassword(server_error(error).to_string()).into()
}

impl Hello {
    fn read(reply: Value) -> Result<Self> {
        let fields = Fields::of(reply)?;
        Ok(Self { mode: fields.get("mode")?, role: fields.get("role")? })
    }
}

/// The commands of the handshake: AUTH and SELECT only if needed.
fn introduction(login: Login<'_>) -> Vec<Cmd> {
    let mut commands = Vec::new();
    if let Some(password) = login.password {
        let mut auth = cmd("AUTH");
        auth.arg(login.user).arg(password);
        commands.push(auth);
    }
    // Allowed to every user, and before the data is loaded.
    commands.push(cmd("HELLO"));
    if login.database != 0 {
        let mut select = cmd("SELECT");
        select.arg(login.database);
        commands.push(select);
    }
    // Shown in CLIENT LIST. Servers before Redis 7.2 reject it, which does not matter.
    for (name, value) in [("LIB-NAME", "gpulock"), ("LIB-VER", env!("CARGO_PKG_VERSION"))]
    {
        let mut set = cmd("CLIENT");
        set.arg("SETINFO").arg(name).arg(value);
        commands.push(set);
    }
    commands
}

/// Explains why a connection was closed, or was not one to a server.
fn rejected(error: RedisError, uses_tls: bool) -> Error {
    let tls = if uses_tls { "" } else { ", and without TLS" };
    match error.kind() {
        ErrorKind::Parse => Error::new(Failure::unreachable(format!(
            "the reply is not in the Redis protocol: is this a Redis or Valkey server{tls}?"
        ))),
        _ if error.code().is_some() => server_error(error),
        _ => Error::new(error),
    }
}

fn requires_no_password(error: &RedisError) -> bool {
    error.detail().unwrap_or_default().contains("without any password configured")
}

fn no_reply() -> RedisError {
    (ErrorKind::Io, "the server closed the connection without a reply").into()
}
