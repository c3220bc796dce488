//! A client in a separate process, which can be killed or stopped. It writes each call to
//! its standard output twice: before it is sent, as one without a reply, and after the
//! reply. So its last request is known however the process ends.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Client, ClientContext};
use crate::clock::{Nanos, now};
use crate::history::{Call, Connection, Entry, EntryWriter, Event};

/// Sends entries to the parent process.
struct StdoutWriter;

impl EntryWriter for StdoutWriter {
    fn begin_call(&mut self, call: &Call) {
        self.write(Entry::Call(call.clone()));
    }

    fn write(&mut self, entry: Entry) {
        let line = serde_json::to_string(&entry).expect("an entry is JSON");
        // One write per line, so a line is complete or absent. A write fails if the
        // parent has exited; the end of standard input signals that too.
        let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
    }
}

/// Runs in the child process: sends calls until its standard input ends.
pub fn work(address: (Ipv4Addr, u16), number: u32, seed: u64) {
    let shared = ClientContext::new(address);
    let stop = shared.stop.clone();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    Client::new(number, shared, Rng::with_seed(seed), StdoutWriter).run();
}

/// The parent's handle of a child process.
pub struct Worker {
    child: Child,
    /// Closing it makes the child finish.
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a child: `program` is this program, optionally preceded by a wrapper
    /// command. `writer` records its entries.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(
        program: &[String],
        address: (Ipv4Addr, u16),
        number: u32,
        seed: u64,
        writer: impl EntryWriter + Send + 'static,
    ) -> io::Result<Self> {
        let (first, others) = program.split_first().ok_or(ErrorKind::NotFound)?;
        let mut child = Command::new(first)
            .args(others)
            .arg("worker")
            .args([address.0.to_string(), address.1.to_string()])
            .args([number.to_string(), seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let output = child.stdout.take().map(BufReader::new);
        let reader =
            output.map(|output| thread::spawn(move || read_entries(output, writer)));
        Ok(Self { child, stdin, reader })
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.reap();
    }

    /// Stops it with SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Continues it.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Makes it finish, and waits for that.
    pub fn finish(&mut self) {
        self.stdin = None;
        self.reap();
    }

    fn reap(&mut self) {
        self.child.wait().expect("waiting for a child");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the entries of a child are recorded");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // Only this handle reaps the child, so its pid cannot have been reused.
        kill(pid, signal).expect("sending a signal to a child");
    }
}

/// A child without a parent would run indefinitely.
impl Drop for Worker {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.thaw();
            self.kill();
        }
    }
}

/// Records the entries of a child. Of a call that was written twice, the second entry
/// counts. If its last connection has no close event, it was closed at the last received
/// entry or later.
fn read_entries(output: impl BufRead, mut writer: impl EntryWriter) {
    let mut pending: Option<Call> = None;
    let mut open: Option<(Connection, Nanos)> = None;
    for line in output.lines().map_while(Result::ok) {
        // The last line of a killed child may be incomplete.
        let Ok(entry) = serde_json::from_str(&line) else { break };
        match &entry {
            Entry::Call(call) => open = Some((call.connection, call.received)),
            Entry::Event(Event::Closed { .. }) => open = None,
            _ => {}
        }
        match (entry, pending.take()) {
            (Entry::Call(call), None) => pending = Some(call),
            (entry, _) => writer.write(entry),
        }
    }
    if let Some(lost) = pending {
        writer.write(Entry::Call(Call { received: now(), ..lost }));
    }
    if let Some((connection, at)) = open {
        writer.write(Entry::Event(Event::Closed { connection, at }));
    }
}
