//! `gpulock exporter` as a process on a port of its own, and requests to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use gpulock_testkit::Server;
use ureq::Agent;
use ureq::http::Response;

use crate::PATIENCE;
use crate::tools::Process;

/// How many may look at once, as docs/cli.md tells.
pub(crate) const VIEWERS: usize = 64;

/// A running exporter.
pub(crate) struct Exporter {
    process: Process,
    url: String,
}

/// What it answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Exporter {
    /// Of these servers, none of which hangs.
    pub(crate) fn of(servers: &[&Server]) -> Self {
        Self::of_urls(&urls(servers))
    }

    /// Of these servers, each of which may take three seconds to answer.
    pub(crate) fn impatient(servers: &[&Server]) -> Self {
        Self::with_timeout("3", &urls(servers))
    }

    /// Of the servers at these addresses, none of which hangs.
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

    /// Waits until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = Process::start(command.stderr(Stdio::piped()));
        let said = process.0.stderr.take().expect("it has a standard error");
        let mut lines = BufReader::new(said).lines();
        let first = lines.next().expect("it says something").expect("in UTF-8");
        let (_, at) = first.split_once(" at ").unwrap_or_else(|| panic!("{first}"));
        let url = at.trim_end_matches('/').to_owned();
        // What it says later must not fill the pipe.
        thread::spawn(move || lines.for_each(drop));
        Self { process, url }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `address:port` of it.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.0.wait().expect("waiting for the exporter")
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    /// Asks with headers of its own.
    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = agent().get(format!("{}{path}", self.url));
        let add = |request: ureq::RequestBuilder<_>, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        read(headers.iter().fold(request, add).call())
    }

    /// Asks under another name for the same address.
    pub(crate) fn get_as(&self, host: &str, path: &str) -> Answer {
        self.get_with(path, &[("Host", host)])
    }

    /// A connection on which these bytes were sent, as no library would.
    pub(crate) fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).expect("connecting");
        stream.set_read_timeout(Some(PATIENCE)).expect("setting it");
        stream.write_all(bytes).expect("sending");
        stream
    }

    pub(crate) fn post(&self, path: &str) -> Answer {
        read(agent().post(format!("{}{path}", self.url)).send_empty())
    }

    pub(crate) fn metrics(&self) -> String {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// The page's events, line by line.
    pub(crate) fn events(&self) -> impl Iterator<Item = serde_json::Value> + use<> {
        let answer = agent().get(format!("{}/events", self.url)).call();
        let body = answer.expect("the events").into_body().into_reader();
        BufReader::new(body).lines().filter_map(|line| {
            let line = line.expect("the events go on");
            let data = line.strip_prefix("data: ")?;
            Some(serde_json::from_str(data).expect("an event is JSON"))
        })
    }
}

/// One for which no server is needed: nothing listens there.
pub(crate) fn alone() -> Exporter {
    Exporter::of_urls(&["redis://127.0.0.1:1".to_owned()])
}

/// The command, whose environment names no server.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpulock"));
    command.arg("exporter").env_remove("GPULOCK_URL").env_remove("GPULOCK_SERVERS");
    command
}

/// The address of a server, as --server takes it.
pub(crate) fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port())
}

fn urls(servers: &[&Server]) -> Vec<String> {
    servers.iter().map(|server| url(server)).collect()
}

/// The label that the exporter gives a server.
pub(crate) fn instance(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

/// The first line of an answer; of the rest is read what came with it.
pub(crate) fn first_line(stream: &mut TcpStream) -> String {
    let mut text = [0; 1024];
    let read = stream.read(&mut text).expect("an answer");
    let text = String::from_utf8_lossy(&text[..read]);
    text.lines().next().unwrap_or_default().to_owned()
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).build().into()
}

fn read(answer: Result<Response<ureq::Body>, ureq::Error>) -> Answer {
    let (head, mut body) = answer.expect("the exporter answers").into_parts();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.with_config().limit(1 << 30).read_to_string().expect("a text"),
    }
}
