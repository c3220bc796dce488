//! A way to the server that a test can break: a TCP relay on a port of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use gpulock_testkit::wait_until;

use crate::runner::PATIENCE;

/// The relay. Its threads end with the test's process.
pub(crate) struct Relay {
    port: u16,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way {
    /// What comes is held back, in both directions, and no end of a connection is told.
    silent: AtomicBool,
    /// So it becomes when this is about to pass.
    silent_before: Mutex<Option<String>>,
    /// Both sides of what is open.
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// A relay to a port of this machine.
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let way = Arc::new(Way::default());
        let shared = Arc::clone(&way);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is away refuses: so does the relay, by closing.
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                    shared.join(client, server);
                }
            }
        });
        Self { port, way }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds back whatever comes from now on.
    pub(crate) fn silence(&self) {
        self.way.silent.store(true, Ordering::SeqCst);
    }

    /// Holds back whatever comes from when this text is to be passed on.
    pub(crate) fn silence_before(&self, text: &str) {
        *self.way.silent_before.lock().expect("no panic") = Some(text.to_owned());
    }

    /// Waits until it holds back.
    #[track_caller]
    pub(crate) fn wait_silent(&self) {
        wait_until(PATIENCE, "the relay to be silent", || {
            self.way.silent.load(Ordering::SeqCst)
        });
    }

    /// Passes on what was held back, and what comes.
    pub(crate) fn pass(&self) {
        self.way.silent.store(false, Ordering::SeqCst);
    }

    /// Ends all connections. New ones are taken.
    pub(crate) fn cut(&self) {
        for stream in self.way.open.lock().expect("no panic").drain(..) {
            let _ended = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Way {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let copy = |stream: &TcpStream| stream.try_clone().expect("a copy");
        let mut open = self.open.lock().expect("no panic");
        open.extend([copy(&client), copy(&server)]);
        for (from, to) in [(copy(&client), copy(&server)), (server, client)] {
            let way = Arc::clone(self);
            thread::spawn(move || way.pump(from, to));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = [0; 4096];
        loop {
            let read = from.read(&mut chunk).unwrap_or(0);
            self.look_at(&chunk[..read]);
            while self.silent.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(1));
            }
            if read == 0 || to.write_all(&chunk[..read]).is_err() {
                let _ended = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    fn look_at(&self, chunk: &[u8]) {
        let mut before = self.silent_before.lock().expect("no panic");
        let text = String::from_utf8_lossy(chunk);
        if before.take_if(|before| text.contains(&**before)).is_some() {
            self.silent.store(true, Ordering::SeqCst);
        }
    }
}
