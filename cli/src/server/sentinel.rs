//! Finds the primary of a service: the Sentinels are asked for it at each connect, so that a new
//! connection follows a failover.

use anyhow::{Context, Result, anyhow, bail};
use redis::cmd;
use tokio::time::{sleep, timeout};

use crate::connection::timed_out;
use crate::exit::{self, Failure};
use crate::replies::server_error;
use crate::server::address::Endpoint;
use crate::server::link::{Link, Login, MissingPassword};
use crate::server::{Limit, PAUSE, Server};

/// Connects to the primary. During a failover the Sentinels may report the old one: they are
/// asked again until the time is over.
pub(super) async fn open(
    server: &Server,
    sentinels: &[Endpoint],
    service: &str,
    limit: Limit,
) -> Result<Link> {
    loop {
        let mut failure = anyhow!("no Sentinel");
        let mut rejection = None;
        let mut is_known = false;
        for sentinel in sentinels {
            let found = match ask(server, sentinel, service, limit).await {
                Ok(found) => found,
                Err(error) => {
                    failure = error.context(format!("Sentinel {sentinel}"));
                    continue;
                }
            };
            is_known = true;
            match server.open_endpoint(&found, limit.share()).await {
                Ok(link) if link.is_primary() => return Ok(link),
                Ok(_) => {
                    let why =
                        format!("{found} is not a primary: no failover has ended yet");
                    failure = Failure::unreachable(why).into();
                }
                // It replied with an error, such as that for a wrong password. This Sentinel may
                // be out of date: another one may report another server.
                Err(error) if exit::status(&error) != exit::UNREACHABLE => {
                    rejection = Some(error.context(format!("primary {found}")));
                }
                Err(error) => failure = error.context(format!("primary {found}")),
            }
        }
        if let Some(rejection) = rejection {
            return Err(rejection);
        }
        if !is_known || !limit.allows_retry() {
            return Err(failure);
        }
        sleep(PAUSE).await;
    }
}

/// Asks a Sentinel for the primary.
async fn ask(
    server: &Server,
    sentinel: &Endpoint,
    service: &str,
    limit: Limit,
) -> Result<Endpoint> {
    let share = limit.share();
    let asked = timeout(share, ask_without_timeout(server, sentinel, service)).await;
    asked.unwrap_or_else(|_| Err(timed_out(share).into()))
}

async fn ask_without_timeout(
    server: &Server,
    sentinel: &Endpoint,
    service: &str,
) -> Result<Endpoint> {
    let mut link = open_sentinel(server, sentinel).await?;
    if !link.is_sentinel() {
        bail!("it is a server, not a Sentinel");
    }
    let mut query = cmd("SENTINEL");
    query.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    let found: Option<(String, u16)> =
        query.query_async(&mut link.redis).await.map_err(server_error)?;
    let (host, port) =
        found.with_context(|| format!("it does not know the service {service:?}"))?;
    Ok(Endpoint::Tcp(host, port))
}

/// The credentials are those of the primary. A Sentinel gets them only if it requires some.
async fn open_sentinel(server: &Server, sentinel: &Endpoint) -> Result<Link> {
    let tls = server.tls.as_ref();
    match Link::open(sentinel, tls, Login::default()).await {
        Err(error)
            if error.is::<MissingPassword>() && server.credentials.password.is_some() =>
        {
            let login = Login { database: 0, ..server.login() };
            Link::open(sentinel, tls, login).await
        }
        opened => opened,
    }
}
