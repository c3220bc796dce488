//! The context of faults: one server under load, with helpers to inject faults and to
//! record their exemptions.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use gpulock_testkit::server::Builder;
use gpulock_testkit::{Client, Flavour, Server, Value, encode};

use super::network_namespace::NetworkNamespace;
use super::wall_clock::WallClock;
use super::{Fault, aof_full};
use crate::client::ClientContext;
use crate::clock::now;
use crate::history::{Connection, Entry, EntryWriter, Event, Lock, Owner};
use crate::locks::{CONTENDED_LOCKS, GpuSet};
use crate::recorder::{Recorder, Writer};
use crate::rng::chance;
use crate::worker_pool::WorkerPool;

/// What survives a crash of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// `appendfsync always`
    AofAlways,
    /// `appendfsync everysec`
    AofEverysec,
    /// The last snapshot.
    Rdb,
}

/// How the server of a round is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) persistence: Persistence,
    /// Some commands have other names.
    pub(crate) is_renamed: bool,
    /// `gpulock.round`
    pub(crate) queue_round: u64,
}

/// Resources that some faults need and that must exist before the server starts.
pub(crate) struct Environment {
    /// Clients in a network namespace, or why there are none.
    pub(crate) namespace: Result<NetworkNamespace, String>,
    /// The server's own wall clock, or why it has none.
    pub(crate) wall_clock: Result<WallClock, String>,
    /// Whether the size of the server's files can be limited, or why not.
    pub(crate) file_limit: Result<(), String>,
}

impl Environment {
    pub(crate) fn prepare(faults: &[&'static dyn Fault], flavour: &Flavour) -> Self {
        let wanted = |name: &str| faults.iter().any(|fault| fault.name() == name);
        let unwanted = || "no fault needs it".to_owned();
        Self {
            namespace: if wanted("half-open") {
                NetworkNamespace::create()
            } else {
                Err(unwanted())
            },
            wall_clock: match wanted("clock") {
                true => WallClock::make(flavour),
                false => Err(unwanted()),
            },
            file_limit: match wanted("aof-full") {
                true => aof_full::can_limit_files(),
                false => Err(unwanted()),
            },
        }
    }

    /// Configures a server for these resources.
    pub(crate) fn configure(&self, mut builder: Builder) -> Builder {
        if let Ok(namespace) = &self.namespace {
            let addresses = format!("{} {}", Ipv4Addr::LOCALHOST, namespace.address());
            builder = builder.arg("bind", addresses).arg("protected-mode", "no");
        }
        if self.file_limit.is_ok() {
            builder = builder.under(&aof_full::COMMAND);
        }
        match &self.wall_clock {
            Ok(clock) => clock.configure(builder),
            Err(_) => builder,
        }
    }
}

/// A connection of the load, from CLIENT LIST.
pub(crate) struct ClientInfo {
    pub(crate) id: String,
    pub(crate) connection: Connection,
    pub(crate) waits: bool,
    pub(crate) user: String,
}

/// A server under load.
pub struct FaultContext {
    pub(crate) server: Server,
    /// Its replica, if a fault has started one.
    pub(crate) replica: Option<Server>,
    pub(crate) persistence: Persistence,
    /// `gpulock.round`
    pub(crate) queue_round: u64,
    /// The loaded module.
    pub(crate) module: PathBuf,
    pub(crate) environment: Environment,
    /// The context that the clients share.
    pub(crate) shared: ClientContext,
    /// Clients in separate processes.
    pub(crate) workers: WorkerPool,
    /// The clock was stepped forward and back, so the tokens are ahead of it. They are
    /// guaranteed to increase only until the server loses its state.
    pub(crate) tokens_ahead_of_clock: bool,
    /// Random decisions of faults.
    pub(crate) rng: Rng,
    admin: Client,
    writer: Writer,
    owners: u32,
    connections: u32,
    is_renamed: bool,
}

/// Commands that some servers have under other names only.
const RENAMED: [&str; 8] =
    ["CONFIG", "EXISTS", "GET", "PERSIST", "PEXPIRE", "PTTL", "PUBLISH", "SCRIPT"];

/// Renames them.
pub(crate) fn renamed(builder: Builder) -> Builder {
    RENAMED.into_iter().fold(builder, |builder, name| {
        builder.arg("rename-command", format!("{name} renamed-{name}"))
    })
}

impl FaultContext {
    pub(crate) fn new(
        (server, setup): (Server, Setup),
        module: PathBuf,
        environment: Environment,
        (shared, workers): (ClientContext, WorkerPool),
        rng: Rng,
        recorder: &Recorder,
    ) -> Self {
        let Setup { persistence, is_renamed, queue_round } = setup;
        let admin = server.client();
        let writer = recorder.writer();
        Self {
            server,
            replica: None,
            persistence,
            queue_round,
            module,
            environment,
            shared,
            workers,
            tokens_ahead_of_clock: false,
            rng,
            admin,
            writer,
            owners: 0,
            connections: 0,
            is_renamed,
        }
    }

    /// Sends a command over the connection of the faults; an error is a normal reply.
    pub(crate) fn send(&mut self, line: &str) -> Value {
        let line = self.translate(line);
        self.admin.line(&line)
    }

    /// The name of a command on this server.
    pub(crate) fn command_name(&self, name: &str) -> String {
        match self.is_renamed && RENAMED.contains(&name) {
            true => format!("renamed-{name}"),
            false => name.to_owned(),
        }
    }

    fn translate(&self, line: &str) -> String {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        format!("{} {rest}", self.command_name(name))
    }

    /// Sends commands in one write, so that no other client's command comes between them.
    pub(crate) fn send_pipeline(&mut self, lines: &[&[&str]]) -> Vec<Value> {
        let bytes: Vec<Vec<u8>> = lines.iter().map(|words| encode(words)).collect();
        self.admin.send_raw(&bytes.concat());
        lines.iter().map(|_| self.admin.read()).collect()
    }

    /// As [`FaultContext::send`], with binary arguments.
    pub(crate) fn send_args(&mut self, words: &[&[u8]]) -> Value {
        self.admin.cmd(words)
    }

    /// As [`FaultContext::send`], but any reply other than OK is an error.
    pub(crate) fn expect_ok(&mut self, line: &str) -> Result<(), String> {
        match self.send(line) {
            reply if reply == "OK" => Ok(()),
            reply => Err(format!("{line}: {reply:?}")),
        }
    }

    /// Reconnects after a restart of the server.
    pub(crate) fn reconnect(&mut self) {
        self.admin = self.server.client();
    }

    /// Records an event.
    pub(crate) fn record_event(&mut self, event: Event) {
        self.write(Entry::Event(event));
    }

    pub(crate) fn write(&mut self, entry: Entry) {
        self.writer.write(entry);
    }

    /// Modifies the keys of some locks, or of all, and records that.
    pub(crate) fn modify<T>(
        &mut self,
        by: &str,
        locks: Option<Vec<Lock>>,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let from = now();
        let result = work(self);
        self.record_event(Event::KeysModified {
            by: by.to_owned(),
            locks,
            from,
            to: now(),
        });
        result
    }

    /// Runs `work`, during which calls may fail with this error code, and records that.
    pub(crate) fn expect_error<T>(
        &mut self,
        code: &str,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let from = now();
        let result = work(self);
        self.record_event(Event::ErrorsExpected {
            codes: vec![code.to_owned()],
            from,
            to: now(),
        });
        result
    }

    /// Sleeps for a random time.
    pub(crate) fn sleep_between(&mut self, from_ms: u64, to_ms: u64) {
        thread::sleep(Duration::from_millis(self.rng.u64(from_ms..=to_ms)));
    }

    /// A random contended lock, or sometimes a GPU.
    pub(crate) fn random_lock(&mut self) -> Lock {
        let db = u8::from(chance(&mut self.rng, 25));
        let gpus = GpuSet::current(db).locks();
        if let (true, Some(gpu)) = (chance(&mut self.rng, 15), self.rng.choice(&gpus)) {
            return *gpu;
        }
        Lock(db, self.rng.u32(..CONTENDED_LOCKS))
    }

    /// A new owner name for plain commands.
    pub(crate) fn new_owner(&mut self) -> Owner {
        self.owners += 1;
        Owner(0, self.owners)
    }

    /// A new connection of the faults.
    pub(crate) fn new_connection(&mut self) -> Connection {
        self.connections += 1;
        Connection(0, self.connections)
    }

    /// The connections of the load.
    pub(crate) fn connections(&mut self) -> Vec<ClientInfo> {
        let list = self.send("CLIENT LIST").text();
        list.lines().filter_map(parse_client).collect()
    }

    /// Kills all clients in separate processes, and returns how many of them were local.
    pub(crate) fn kill_processes(&mut self) -> usize {
        if let Ok(namespace) = &mut self.environment.namespace {
            namespace.kill_all();
        }
        self.workers.kill_all()
    }

    /// Starts clients in separate processes: `count` local ones, and those in the
    /// namespace.
    pub(crate) fn start_processes(&mut self, count: usize) -> Result<(), String> {
        if let Ok(namespace) = &mut self.environment.namespace {
            namespace.start_workers()?;
        }
        self.workers.start(count)
    }

    /// Stops all of them.
    pub(crate) fn finish_processes(&mut self) {
        if let Ok(namespace) = &mut self.environment.namespace {
            namespace.finish();
        }
        self.workers.finish();
    }

    /// Closes the connection of each waiter, as an operator would.
    pub(crate) fn kill_waiters(&mut self) {
        for waiting in self.connections().into_iter().filter(|client| client.waits) {
            self.record_event(Event::Closed {
                connection: waiting.connection,
                at: now(),
            });
            self.send(&format!("CLIENT KILL ID {}", waiting.id));
        }
    }
}

/// Parses a line of CLIENT LIST.
fn parse_client(line: &str) -> Option<ClientInfo> {
    let field = |name: &str| {
        line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    Some(ClientInfo {
        id: field("id")?.to_owned(),
        connection: field("name")?.parse().ok()?,
        waits: field("flags")?.contains('b'),
        user: field("user")?.to_owned(),
    })
}
