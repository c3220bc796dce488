//! Opens the stream below a connection: TCP to any address of a host name, with or without TLS,
//! or a Unix socket.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::server::address::Endpoint;
use crate::server::tls;

/// How long an address of a host name may take before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);

/// An open stream.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for S {}

/// Opens a stream, without a timeout.
///
/// # Errors
/// If the endpoint cannot be reached, or its certificate is not trusted.
pub(crate) async fn open(
    endpoint: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Box<dyn Io>> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Endpoint::Tcp(host, port) => {
            let addresses = lookup_host((host.as_str(), *port)).await;
            let addresses = addresses.map_err(|error| unknown_host(host, &error))?;
            first_of(addresses.collect(), |at| open_tcp(at, host, tls)).await
        }
    }
}

async fn open_tcp(
    at: SocketAddr,
    host: &str,
    tls: Option<&Arc<ClientConfig>>,
) -> io::Result<Box<dyn Io>> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(tls::explain)?))
}

/// Opens the first address that can be opened. They are tried in order: the next one when the
/// one before fails or does not reply soon (as in RFC 8305).
async fn first_of<S, F: Future<Output = io::Result<S>>>(
    addresses: Vec<SocketAddr>,
    open: impl Fn(SocketAddr) -> F,
) -> io::Result<S> {
    let mut untried = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(ErrorKind::NotFound, "the host has no address");
    loop {
        if let Some(address) = untried.next() {
            attempts.push(open(address));
        }
        tokio::select! {
            attempt = attempts.next() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failure = error,
                None => return Err(failure),
            },
            () = sleep(STAGGER), if untried.len() > 0 => {}
        }
    }
}

fn unknown_host(host: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to look up the host {host:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::Ipv4Addr;

    use tokio::runtime::Builder;

    use super::*;

    /// What an address does, by its port.
    const DEAD: u16 = 1;
    const SILENT: u16 = 2;

    fn first(ports: &[u16]) -> io::Result<u16> {
        let address = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let addresses = ports.iter().map(address).collect();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(first_of(addresses, async |at: SocketAddr| match at.port() {
            DEAD => Err(io::Error::from(ErrorKind::ConnectionRefused)),
            SILENT => pending().await,
            port => Ok(port),
        }))
    }

    #[test]
    fn the_first_address_that_replies_is_used() -> io::Result<()> {
        for ports in [&[5, 6][..], &[DEAD, 5, 6], &[SILENT, 5], &[SILENT, DEAD, DEAD, 5]]
        {
            assert_eq!(first(ports)?, 5, "{ports:?}");
        }
        Ok(())
    }

    #[test]
    fn without_an_address_that_replies_the_last_error_is_returned() {
        let kind = |ports| first(ports).unwrap_err().kind();
        assert_eq!(kind(&[DEAD, DEAD]), ErrorKind::ConnectionRefused);
        assert_eq!(kind(&[]), ErrorKind::NotFound);
    }
}
