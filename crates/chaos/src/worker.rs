//! A client in a process of its own, so that it can be killed or stopped in its tracks. It
//! tells each call twice on its standard output: before it is sent, as one whose answer was
//! lost, and when it was answered. So what it asked last is known however it ends.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Client, Floor};
use crate::clock::{Nanos, now};
use crate::dice::Dice;
use crate::history::{Call, Connection, Entry, Event, Pen};

/// Tells the parent.
struct Told;

impl Pen for Told {
    fn intend(&mut self, call: &Call) {
        self.write(Entry::Call(call.clone()));
    }

    fn write(&mut self, entry: Entry) {
        let line = serde_json::to_string(&entry).expect("an entry is JSON");
        // One write a line: it is told whole or not at all. Without a parent nobody is
        // there to be told, and the end of standard input says so too.
        let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
    }
}

/// What the child process does: it asks until its standard input ends.
pub fn work(address: (Ipv4Addr, u16), number: u32, seed: u64) {
    let floor = Floor::new(address);
    let stop = floor.stop.clone();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    Client::new(number, floor, Dice::new(seed), Told).run();
}

/// A child process, seen from its parent.
pub struct Worker {
    child: Child,
    /// Closed, it tells the child to come to an end.
    stdin: Option<ChildStdin>,
    listener: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts one: this program, with what it is to be started through before it. `pen`
    /// writes down what it tells.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(
        program: &[String],
        address: (Ipv4Addr, u16),
        number: u32,
        seed: u64,
        pen: impl Pen + Send + 'static,
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
        let told = child.stdout.take().map(BufReader::new);
        let listener = told.map(|told| thread::spawn(move || listen(told, pen)));
        Ok(Self { child, stdin, listener })
    }

    /// Ends it as a power cut would, wherever it is.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.reap();
    }

    /// Stops it in its tracks.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it has come to its end.
    pub fn finish(&mut self) {
        self.stdin = None;
        self.reap();
    }

    fn reap(&mut self) {
        self.child.wait().expect("waiting for a child");
        if let Some(listener) = self.listener.take() {
            listener.join().expect("what a child told is written down");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a pid is a positive number");
        // It is reaped by nobody but us, so that the pid is still its own.
        kill_process(pid, signal).expect("sending a signal to a child");
    }
}

/// A child left alone would ask on for ever.
impl Drop for Worker {
    fn drop(&mut self) {
        if self.listener.is_some() {
            self.thaw();
            self.kill();
        }
    }
}

/// Writes down what a child tells. Of a call told twice the second is the one that counts.
/// Its last connection closed, if it did not say so itself, when it was heard of last or
/// later.
fn listen(told: impl BufRead, mut pen: impl Pen) {
    let mut intended: Option<Call> = None;
    let mut open: Option<(Connection, Nanos)> = None;
    for line in told.lines().map_while(Result::ok) {
        // The last line of one that was killed may be cut off.
        let Ok(entry) = serde_json::from_str(&line) else { break };
        match &entry {
            Entry::Call(call) => open = Some((call.connection, call.heard)),
            Entry::Event(Event::Closed { .. }) => open = None,
            _ => {}
        }
        match (entry, intended.take()) {
            (Entry::Call(call), None) => intended = Some(call),
            (entry, _) => pen.write(entry),
        }
    }
    if let Some(lost) = intended {
        pen.write(Entry::Call(Call { heard: now(), ..lost }));
    }
    if let Some((connection, at)) = open {
        pen.write(Entry::Event(Event::Closed { connection, at }));
    }
}
