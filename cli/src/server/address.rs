//! The forms of an address, and how they are parsed.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::server::Source;
use crate::server::credentials::Credentials;

/// The accepted forms of an address.
pub(crate) const FORMS: &str = "redis://[[user]:password@]host[:port][/database], rediss://… \
     (TLS), redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/database], \
     rediss+sentinel://… or unix:///socket";

/// The port of a Sentinel whose address has none.
const SENTINEL_PORT: u16 = 26379;

/// An address, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) place: Place,
    pub(crate) uses_tls: bool,
    pub(crate) credentials: Credentials,
    pub(crate) database: i64,
}

/// Which server an address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This server, which may be a node of a cluster.
    Server(Endpoint),
    /// The primary of a service, as one of these Sentinels reports it.
    Sentinel { sentinels: Vec<Endpoint>, service: String },
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    /// A host, without the brackets of an IPv6 address, and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Parsed {
    /// Parses an address; `source` is the option or variable that contains it.
    ///
    /// # Errors
    /// If the address is invalid.
    pub(crate) fn of(source: Source, url: &str) -> Result<Self, String> {
        parse(url).map_err(|why| {
            let shown = match url {
                "" => String::new(),
                _ if may_contain_password(url) => " address".to_owned(),
                _ => format!(" {url:?}"),
            };
            let why = if url.is_empty() { "it is empty".to_owned() } else { why };
            let why = if why.is_empty() { why } else { format!("{why}; ") };
            format!("invalid {source}{shown}: {why}expected {FORMS}")
        })
    }

    /// Its name in messages and labels: it does not change with a failover, and contains no
    /// user or password.
    pub(crate) fn shown(&self) -> String {
        match &self.place {
            Place::Server(endpoint) => endpoint.to_string(),
            Place::Sentinel { sentinels, service } => match sentinels.first() {
                Some(first) => format!("{first}/{service}"),
                None => service.clone(),
            },
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Parses an address. The error is empty if there is nothing to add to the accepted forms.
fn parse(url: &str) -> Result<Parsed, String> {
    if url.ends_with("#insecure") {
        let why =
            "#insecure is not supported, certificates are always verified: use --cacert";
        return Err(why.to_owned());
    }
    if url.contains('#') {
        return Err("'#' must be written as %23".to_owned());
    }
    // The library also accepts one slash, where a password would be overlooked elsewhere.
    let (scheme, rest) = url.split_once("://").ok_or_else(String::new)?;
    match scheme {
        "redis+sentinel" => parse_sentinel(rest, false),
        "rediss+sentinel" => parse_sentinel(rest, true),
        // The library is built without TLS, and rejects these names.
        "rediss" | "valkeys" => parse_server(&format!("redis://{rest}"), true),
        _ => parse_server(url, false),
    }
}

fn parse_server(url: &str, uses_tls: bool) -> Result<Parsed, String> {
    let info = info(url)?;
    let settings = info.redis_settings();
    Ok(Parsed {
        place: Place::Server(endpoint(&info)?),
        uses_tls,
        credentials: Credentials {
            user: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
        },
        database: settings.db(),
    })
}

/// Parses `[[user]:password@]host[:port][,host[:port]…]/service[/database]`.
fn parse_sentinel(rest: &str, uses_tls: bool) -> Result<Parsed, String> {
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (format!("{user}@"), rest),
        None => (String::new(), rest),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (service, database) = path.split_once('/').unwrap_or((path, ""));
    if service.is_empty() {
        return Err("the service is missing".to_owned());
    }
    // All hosts have the same credentials and database, which the library parses.
    let mut parsed = None;
    let mut sentinels = Vec::new();
    for host in hosts.split(',') {
        let url = format!("redis://{user}{}/{database}", with_port(host));
        let one = parse_server(&url, uses_tls)?;
        if let Place::Server(sentinel) = &one.place {
            sentinels.push(sentinel.clone());
        }
        parsed = Some(one);
    }
    let parsed = parsed.ok_or("there is no host")?;
    let place = Place::Sentinel { sentinels, service: service.to_owned() };
    Ok(Parsed { place, ..parsed })
}

/// Adds a Sentinel's port to a host without one.
fn with_port(host: &str) -> String {
    let after_address = host.rsplit_once(']').map_or(host, |(_, after)| after);
    match after_address.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:{SENTINEL_PORT}"),
    }
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info()
        .map_err(|error| error.detail().unwrap_or_default().to_owned())
}

fn endpoint(info: &ConnectionInfo) -> Result<Endpoint, String> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Endpoint::Tcp(host.clone(), *port)),
        ConnectionAddr::Unix(path) => Ok(Endpoint::Unix(path.clone())),
        _ => Err(String::new()),
    }
}

/// An error message must not print a password, even if the address cannot be parsed.
fn may_contain_password(url: &str) -> bool {
    let after_scheme = url.split_once(':').map_or(url, |(_, rest)| rest);
    // A Unix socket's password is a part of the query.
    after_scheme.contains([':', '@', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(url: &str) -> String {
        Parsed::of(Source::Url, url).unwrap_err()
    }

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp(host.to_owned(), port)
    }

    #[test]
    fn an_error_shows_the_address_unless_it_may_contain_a_password() {
        let expected = "invalid --url \"redis:/x\": expected redis://";
        assert!(message("redis:/x").starts_with(expected), "{}", message("redis:/x"));
        for url in [
            "redis://me:secret@host:x",
            "redis://:secret",
            "me:secret@host",
            "unix:///socket?pass=secret#b",
            "unix:/socket?pass=secret",
        ] {
            let message = message(url);
            assert!(message.starts_with("invalid --url address: "), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong() {
        for (url, why) in [
            ("", "invalid --url: it is empty; expected redis://"),
            ("rediss://host#insecure", "certificates are always verified"),
            ("redis://:a#b@host", "'#' must be written as %23"),
            ("redis+sentinel://host", "the service is missing"),
            ("redis+sentinel://host/", "the service is missing"),
        ] {
            assert!(message(url).contains(why), "{}", message(url));
        }
    }

    #[test]
    fn a_server_has_a_host_or_a_socket() {
        let parsed = |url| Parsed::of(Source::Url, url).expect("a valid address");
        for (url, endpoint) in [
            ("redis://host", tcp("host", 6379)),
            ("rediss://host:1", tcp("host", 1)),
            ("redis://[::1]:7000/2", tcp("::1", 7000)),
            ("unix:///run/redis.sock", Endpoint::Unix("/run/redis.sock".into())),
        ] {
            assert_eq!(parsed(url).place, Place::Server(endpoint), "{url}");
        }
        assert_eq!(parsed("redis://[::1]:7000").shown(), "[::1]:7000");
        assert!(parsed("rediss://host").uses_tls && !parsed("redis://host").uses_tls);
        let one = parsed("redis://me:a%40b@host/3");
        assert_eq!(one.database, 3);
        assert_eq!(one.credentials.user.as_deref(), Some("me"));
        assert_eq!(one.credentials.password.as_deref(), Some("a@b"));
    }

    #[test]
    fn sentinels_share_credentials_service_and_database() {
        let url = "rediss+sentinel://me:a%2Fb@one,two:5,[::1],[::2]:6/gpus/4";
        let parsed = Parsed::of(Source::Url, url).expect("a valid address");
        let sentinels =
            vec![tcp("one", 26379), tcp("two", 5), tcp("::1", 26379), tcp("::2", 6)];
        let place = Place::Sentinel { sentinels, service: "gpus".to_owned() };
        assert_eq!(parsed.place, place);
        assert_eq!(parsed.credentials.password.as_deref(), Some("a/b"));
        assert_eq!((parsed.database, parsed.uses_tls), (4, true));
        assert_eq!(parsed.shown(), "one:26379/gpus");
    }
}
