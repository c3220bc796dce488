//! `gpulock exporter` as a process on a free port, and requests to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use gpulock_testkit::Server;
use ureq::Agent;
use ureq::http::Response;

use crate::TIMEOUT;
use crate::tools::Process;

/// Maximum number of viewers (docs/cli.md).
pub(crate) const MAX_VIEWERS: usize = 64;

/// A running exporter.
pub(crate) struct Exporter {
    process: Process,
    url: String,
}

/// A response.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Exporter {
    /// For these servers, with a long timeout.
    pub(crate) fn of(servers: &[&Server]) -> Self {
        Self::of_urls(&urls(servers))
    }

    /// For these servers, with a timeout of three seconds.
    pub(crate) fn with_short_timeout(servers: &[&Server]) -> Self {
        Self::with_short_timeout_of(&urls(servers))
    }

    /// For the servers at these addresses, with a timeout of three seconds.
    pub(crate) fn with_short_timeout_of(urls: &[String]) -> Self {
        Self::with_timeout("3", urls)
    }

    /// For the servers at these addresses, with a long timeout.
    pub(crate) fn of_urls(urls: &[String]) -> Self {
        Self::with_timeout("20", urls)
    }

    fn with_timeout(timeout: &str, urls: &[String]) -> Self {
        let mut command = command();
        command.args(["--listen", "127.0.0.1:0", "--timeout", timeout]);
        for url in urls {
            command.args(["--server", url]);
        }
        Self::start(&mut command)
    }

    /// Starts it, and waits for the message with its address.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = Process::start(command.stderr(Stdio::piped()));
        let stderr = process.0.stderr.take().expect("it has a standard error");
        let mut lines = BufReader::new(stderr).lines();
        let first = lines.next().expect("a line").expect("UTF-8");
        let (_, url) =
            first.split_once(" listening on ").unwrap_or_else(|| panic!("{first}"));
        let url = url.trim_end_matches('/').to_owned();
        // Later output must not fill the pipe.
        thread::spawn(move || lines.for_each(drop));
        Self { process, url }
    }

    /// Its address as a URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its `address:port`.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.0.wait().expect("waiting for the exporter")
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.get_with(path, &[])
    }

    /// Sends a request with these headers.
    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let request = agent().get(format!("{}{path}", self.url));
        let add = |request: ureq::RequestBuilder<_>, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        read(headers.iter().fold(request, add).call())
    }

    /// The headers and the body of `/metrics` for a client that accepts these encodings. The
    /// client decodes nothing.
    pub(crate) fn scrape(
        &self,
        accept_encoding: &str,
    ) -> (ureq::http::HeaderMap, Vec<u8>) {
        let request = agent().get(format!("{}/metrics", self.url));
        let response = request.header("Accept-Encoding", accept_encoding).call();
        let (head, mut body) = response.expect("a response").into_parts();
        assert_eq!(head.status.as_u16(), 200);
        let body = body.with_config().limit(1 << 30).read_to_vec().expect("a body");
        (head.headers, body)
    }

    /// Sends a request with another host name.
    pub(crate) fn get_as(&self, host: &str, path: &str) -> Reply {
        self.get_with(path, &[("Host", host)])
    }

    /// Opens a connection and sends these bytes, which may be an invalid request.
    pub(crate) fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).expect("connecting");
        stream.set_read_timeout(Some(TIMEOUT)).expect("setting it");
        stream.write_all(bytes).expect("sending");
        stream
    }

    pub(crate) fn post(&self, path: &str) -> Reply {
        read(agent().post(format!("{}{path}", self.url)).send_empty())
    }

    pub(crate) fn metrics(&self) -> String {
        let reply = self.get("/metrics");
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    }

    /// The events of the page.
    pub(crate) fn events(&self) -> impl Iterator<Item = serde_json::Value> + use<> {
        let response = agent().get(format!("{}/events", self.url)).call();
        let body = response.expect("the events").into_body().into_reader();
        BufReader::new(body).lines().filter_map(|line| {
            let line = line.expect("an event");
            let data = line.strip_prefix("data: ")?;
            Some(serde_json::from_str(data).expect("an event is JSON"))
        })
    }
}

/// An exporter for a server that does not exist.
pub(crate) fn alone() -> Exporter {
    Exporter::of_urls(&["redis://127.0.0.1:1".to_owned()])
}

/// The command, without servers in its environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpulock"));
    command.arg("exporter").env_remove("GPULOCK_URL").env_remove("GPULOCK_SERVERS");
    command
}

/// The address of a server for --server.
pub(crate) fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port())
}

pub(crate) fn urls(servers: &[&Server]) -> Vec<String> {
    servers.iter().map(|server| url(server)).collect()
}

/// The instance label of a server.
pub(crate) fn instance(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

/// The first line of a response. Also reads some of the rest.
pub(crate) fn first_line(stream: &mut TcpStream) -> String {
    let mut text = [0; 1024];
    let read = stream.read(&mut text).expect("a response");
    let text = String::from_utf8_lossy(&text[..read]);
    text.lines().next().unwrap_or_default().to_owned()
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).build().into()
}

fn read(response: Result<Response<ureq::Body>, ureq::Error>) -> Reply {
    let (head, mut body) = response.expect("a response").into_parts();
    Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.with_config().limit(1 << 30).read_to_string().expect("a text"),
    }
}
