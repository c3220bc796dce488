//! A TCP relay to a server, which a test can silence or break.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use gpulock_testkit::wait_until;

use crate::runner::TIMEOUT;

/// Its threads end with the test's process.
pub(crate) struct Relay {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Holds back data, and ends of connections, in both directions.
    silent: AtomicBool,
    /// Becomes silent before it forwards this text.
    silent_before: Mutex<Option<String>>,
    /// Both sides of the open connections.
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// A relay to a port of this machine.
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // If the server is down, the relay closes the connection.
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                    shared.join(client, server);
                }
            }
        });
        Self { port, state }
    }

    /// The port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds back all data from now on.
    pub(crate) fn silence(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }

    /// Holds back all data, beginning with this text.
    pub(crate) fn silence_before(&self, text: &str) {
        *self.state.silent_before.lock().expect("no panic") = Some(text.to_owned());
    }

    /// Waits until it holds back data.
    #[track_caller]
    pub(crate) fn wait_silent(&self) {
        wait_until(TIMEOUT, "the relay to be silent", || {
            self.state.silent.load(Ordering::SeqCst)
        });
    }

    /// Forwards the data that was held back, and all data from now on.
    pub(crate) fn pass(&self) {
        self.state.silent.store(false, Ordering::SeqCst);
    }

    /// Closes all connections. New ones are accepted.
    pub(crate) fn cut(&self) {
        for stream in self.state.open.lock().expect("no panic").drain(..) {
            let _ended = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let copy = |stream: &TcpStream| stream.try_clone().expect("a copy");
        let mut open = self.open.lock().expect("no panic");
        open.extend([copy(&client), copy(&server)]);
        for (from, to) in [(copy(&client), copy(&server)), (server, client)] {
            let state = Arc::clone(self);
            thread::spawn(move || state.pump(from, to));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = [0; 4096];
        loop {
            let read = from.read(&mut chunk).unwrap_or(0);
            self.check_for_text(&chunk[..read]);
            while self.silent.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(1));
            }
            if read == 0 || to.write_all(&chunk[..read]).is_err() {
                let _ended = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    fn check_for_text(&self, chunk: &[u8]) {
        let mut before = self.silent_before.lock().expect("no panic");
        let text = String::from_utf8_lossy(chunk);
        if before.take_if(|before| text.contains(&**before)).is_some() {
            self.silent.store(true, Ordering::SeqCst);
        }
    }
}
