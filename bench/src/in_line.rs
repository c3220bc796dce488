//! In line: what a hand-off costs the server with few and with many clients waiting,
//! beside plain commands from as many connections and beside a module that only blocks
//! and lets go. What grows for these two as well is the server's own.

use anyhow::Result;

use crate::blocks::{Blocks, packed_in_place_of};
use crate::figures::{Figure, Notebook};
use crate::files;
use crate::link::{Link, packed};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::served::Served;

const ROUNDS: usize = 21;
/// Hand-offs of one sample.
const TIMES: usize = 2_000;
/// Hand-offs before it, not counted: they find the processor awake and the code at hand.
const WARM_UP: usize = 500;
const LEASE_MS: &str = "60000000";

/// A name, and how it passes something on; the answer is server CPU in microseconds.
type Peer = (&'static str, fn(&mut Ring) -> Result<f64>);

/// Measures the hand-off with lines of all lengths. Each length has a server with all its
/// connections, on which the peers take turns in each round.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    progress.rounds(ROUNDS * names::WAITING.len());
    progress.doing("connecting");
    let clients: usize = names::WAITING.iter().map(|waiting| waiting + 1).sum();
    files::allow(clients as u64 + 200)?;
    let blocks = Blocks::build()?;
    let mut rings = names::WAITING
        .iter()
        .map(|waiting| Ring::connect(setup, &blocks, waiting + 1))
        .collect::<Result<Vec<_>>>()?;
    let mut peers: [Peer; 3] = [
        (names::OURS, |ring| ring.hand_on(Words::ours)),
        (names::BLOCKS, |ring| ring.hand_on(Words::of_blocks)),
        (names::NATIVE, Ring::set_and_delete),
    ];
    let mut notes = Notebook::new(names::IN_LINE);
    for _ in 0..ROUNDS {
        for (waiting, ring) in names::WAITING.iter().zip(&mut rings) {
            let case = names::waiting(*waiting);
            progress.doing(&case);
            for (peer, cpu_us) in peers {
                notes.note(&case, peer, names::CPU_US, cpu_us(ring)?);
            }
            progress.step();
        }
        // Who comes first finds what the round before left in the processor.
        peers.rotate_left(1);
    }
    Ok(notes.into_figures())
}

/// What a client says, ready to be sent.
struct Words {
    /// To have it as the first of all, when nobody does.
    begin: Vec<u8>,
    /// To stand in line.
    wait: Vec<u8>,
    /// To let the next in line have it.
    give: Vec<u8>,
    /// To give it and stand in line again, in one write.
    pass: Vec<u8>,
}

impl Words {
    /// What a client says to our module, or to another in place of it.
    fn new(client: usize, packed: impl Fn(&[&str]) -> Vec<u8>) -> Self {
        let owner = owner(client);
        let wait =
            packed(&["GPULOCK.ACQUIRE", "one", &owner, "PX", LEASE_MS, "BLOCK", "0"]);
        let give = packed(&["GPULOCK.RELEASE", "one", &owner]);
        Self { begin: wait.clone(), pass: [&*give, &*wait].concat(), wait, give }
    }

    fn ours(client: usize) -> Self {
        Self::new(client, packed)
    }

    /// That module knows no holder: whose turn it is only we know.
    fn of_blocks(client: usize) -> Self {
        let words = Self::new(client, packed_in_place_of);
        Self { begin: words.give.clone(), ..words }
    }
}

/// 36 bytes.
fn owner(client: usize) -> String {
    format!("locked_by_transcribe:worker3:{client:07}")
}

/// A server, and clients whose turn it is one after the other.
struct Ring {
    served: Served,
    links: Vec<Link>,
    turn: usize,
}

impl Ring {
    fn connect(setup: &Setup, blocks: &Blocks, clients: usize) -> Result<Self> {
        let served = Served::start(&setup.flavour, Some(&setup.module), |builder| {
            builder.arg("loadmodule", blocks.module().display())
        })?;
        let links = Link::many_to(&served, clients)?;
        Ok(Self { served, links, turn: 0 })
    }

    /// Server CPU of a hand-off, in microseconds, with all clients but the holder in line.
    /// Who gives the lock back asks again at once, so the line stays as long as it is.
    fn hand_on(&mut self, words: impl Fn(usize) -> Words) -> Result<f64> {
        let words: Vec<Words> = (0..self.links.len()).map(words).collect();
        self.line_up(&words)?;
        let spent = self.cpu_us(|ring| {
            let holder = ring.turn;
            ring.links[holder].send(&words[holder].pass)?;
            ring.links[holder].answers(1)?;
            ring.next().answers(1)
        })?;
        self.go_home(&words)?;
        Ok(spent)
    }

    /// What as many connections cost without any line: each in turn sets a key and
    /// deletes it.
    fn set_and_delete(&mut self) -> Result<f64> {
        let commands: Vec<Vec<u8>> = (0..self.links.len())
            .map(|client| {
                let set = packed(&["SET", "one", &owner(client), "NX", "PX", LEASE_MS]);
                [set, packed(&["DEL", "one"])].concat()
            })
            .collect();
        self.cpu_us(|ring| {
            let client = ring.turn;
            ring.links[client].send(&commands[client])?;
            ring.links[client].answers(2)?;
            ring.next();
            Ok(())
        })
    }

    /// Server CPU of one turn, in microseconds.
    fn cpu_us(&mut self, turn: impl Fn(&mut Self) -> Result<()>) -> Result<f64> {
        (0..WARM_UP).try_for_each(|_| turn(self))?;
        let before = self.served.cpu_us()?;
        (0..TIMES).try_for_each(|_| turn(self))?;
        Ok((self.served.cpu_us()? - before) / TIMES as f64)
    }

    fn line_up(&mut self, words: &[Words]) -> Result<()> {
        self.links[self.turn].send(&words[self.turn].begin)?;
        self.links[self.turn].answers(1)?;
        let clients = self.links.len();
        (1..clients)
            .map(|place| (self.turn + place) % clients)
            .try_for_each(|client| self.links[client].wait(&words[client].wait))
    }

    fn go_home(&mut self, words: &[Words]) -> Result<()> {
        for client in 0..self.links.len() {
            let holder = &mut self.links[self.turn];
            holder.send(&words[self.turn].give)?;
            holder.answers(1)?;
            let next = self.next();
            if client + 1 < words.len() {
                next.answers(1)?;
            }
        }
        Ok(())
    }

    /// The turn goes to the next client.
    fn next(&mut self) -> &mut Link {
        self.turn = (self.turn + 1) % self.links.len();
        &mut self.links[self.turn]
    }
}
