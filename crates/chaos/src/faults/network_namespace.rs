//! A network namespace with clients, connected to the server by one link that can be cut.
//! Needs the permission to create one, and the program `ip`.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::worker_pool::WorkerPool;

/// Number of clients in it.
const WORKERS: usize = 2;

/// A network namespace. Dropping it deletes the namespace.
pub(crate) struct NetworkNamespace {
    name: String,
    /// The local end of the link.
    link: String,
    local: Ipv4Addr,
    workers: Option<WorkerPool>,
}

impl NetworkNamespace {
    /// Creates a namespace without clients.
    pub(crate) fn create() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        // A network of four addresses for each, in a private range.
        let [.., high, low] = (number % (1 << 14) * 4).to_be_bytes();
        let address = |last| Ipv4Addr::new(10, 213, high, low | last);
        let (local, there) = (address(1), address(2));
        let namespace = Self {
            name: format!("gpulock-{number}"),
            link: format!("gl{number}a"),
            local,
            workers: None,
        };
        let (name, link, remote) =
            (&namespace.name, &namespace.link, format!("gl{number}b"));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {link} type veth peer name {remote} netns {name}"))?;
        ip(&format!("address add {local}/30 dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("-n {name} address add {there}/30 dev {remote}"))?;
        ip(&format!("-n {name} link set {remote} up"))?;
        Ok(namespace)
    }

    /// The server's address inside the namespace.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.local
    }

    /// Sets the pool of clients, and starts them.
    pub(crate) fn set_workers(&mut self, workers: WorkerPool) -> Result<(), String> {
        self.workers = Some(workers.through(&["ip", "netns", "exec", &self.name]));
        self.start_workers()
    }

    /// Starts clients in the namespace.
    pub(crate) fn start_workers(&mut self) -> Result<(), String> {
        self.workers.as_mut().map_or(Ok(()), |workers| workers.start(WORKERS))
    }

    /// Sets the link up or down.
    pub(crate) fn set_link(&self, how: &str) -> Result<(), String> {
        ip(&format!("link set {} {how}", self.link))
    }

    pub(crate) fn kill_all(&mut self) {
        if let Some(workers) = &mut self.workers {
            workers.kill_all();
        }
    }

    /// Stops all clients.
    pub(crate) fn finish(&mut self) {
        self.workers.iter_mut().for_each(WorkerPool::finish);
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        self.kill_all();
        // This also deletes the link. Fails if the namespace could not be created.
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("ip {words}: {stderr}"))
}
