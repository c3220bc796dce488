//! The connection to which the locks are tied: a thread that asks for them on it, then
//! looks at them on it, and comes back within the grace when it ends.

use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};
use redis::{RedisError, RedisResult};

use crate::clock::{self, Moment};
use crate::connection::Connection;
use crate::replies::told;
use crate::run::Event;
use crate::run::locks::{Held, Lock, Wish, extend, release, still_held};
use crate::run::over::Over;
use crate::run::patience::Patience;
use crate::run::wanted::Wanted;
use crate::server::Address;

/// How long a wait goes on before it is asked for anew: short enough for proxies that cut
/// what is idle.
const SLICE: Duration = Duration::from_secs(20);

/// The same while GPUs are passed over: they are looked at again in between.
const SHORT_SLICE: Duration = Duration::from_secs(5);

/// How long an answer may take beyond the wait for it.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the connection may be silent before another one is tried.
const SILENT: Duration = Duration::from_secs(5);

/// How long to pause before what failed is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// The same after the server refused: what it lacks does not come back at once.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// The thread.
#[derive(Debug)]
pub(crate) struct Session {
    thread: JoinHandle<()>,
    over: Over,
}

/// What the thread works with.
struct Keeper {
    address: Address,
    wish: Wish,
    events: Sender<Event>,
    over: Over,
}

/// Locks that were granted. At the moment named the lease had not begun, or was renewed.
type Grant = (Vec<Lock>, Moment);

/// What is known of a wait.
#[derive(Debug, Default)]
struct Waiting {
    /// The server has let us wait: it has the module, and we the rights.
    has_begun: bool,
    /// Why it refused last.
    told: Option<String>,
}

/// The locks that are kept, by the tokens that tell this hold from a later one of the owner.
struct Known {
    locks: Vec<Lock>,
    /// A call that would grant the locks anew was not answered, and may arrive yet.
    is_doubtful: bool,
}

/// What a look at the locks showed.
enum Look {
    /// They are ours; so much is left of the shortest lease, where that was told.
    Held(Option<Duration>),
    Lost,
}

/// How an attempt to tie the locks anew ends.
enum Tied {
    Anew(Box<Connection>),
    NotYet,
    /// They are lost, or given back.
    Never,
}

/// Why the locks are not tied anew.
enum Untied {
    Lost,
    Failed(anyhow::Error),
}

impl Session {
    /// Asks for the locks until they are granted or the patience is over, and keeps them.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(
        address: &Address,
        wish: Wish,
        wanted: Wanted,
        patience: Patience,
        events: Sender<Event>,
    ) -> Result<Self> {
        let over = Over::default();
        let keeper =
            Keeper { address: address.clone(), wish, events, over: over.clone() };
        let thread = thread::Builder::new().name("session".to_owned());
        let thread = thread.spawn(move || keeper.take_and_keep(wanted, patience));
        Ok(Self { thread: thread.context("no thread")?, over })
    }

    /// When it asks for nothing any more.
    pub(crate) fn over(&self) -> &Over {
        &self.over
    }

    /// Stops, and gives back what may have been granted meanwhile. Somebody waits for that:
    /// a server that does not answer soon is left to see the end of the connection.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn withdraw(&self, address: &Address, wish: &Wish) -> Result<()> {
        const ROUNDS: usize = 5;
        self.over.say();
        let mut connection = address.connect_within(LONG_PAUSE)?;
        // The thread may have been about to ask once more.
        for _ in 0..ROUNDS {
            wish.withdraw(&mut connection)?;
            if self.thread.is_finished() {
                break;
            }
            sleep(PAUSE / 10);
        }
        Ok(())
    }
}

impl Keeper {
    fn take_and_keep(mut self, mut wanted: Wanted, patience: Patience) {
        match self.take(&mut wanted, patience) {
            Ok(Some((connection, (locks, at)))) => {
                self.wish.keys = locks.iter().map(|lock| lock.key.clone()).collect();
                self.wish.count = locks.len();
                self.tell(Event::Granted(locks.clone(), at));
                self.keep(connection, Known { locks, is_doubtful: false }, at);
            }
            Ok(None) => self.tell(Event::TimeOver),
            Err(error) => self.tell(Event::Failed(error)),
        }
    }

    /// Asks until the locks are granted, on a new connection whenever one breaks. None: the
    /// time is over.
    fn take(
        &mut self,
        wanted: &mut Wanted,
        patience: Patience,
    ) -> Result<Option<(Connection, Grant)>> {
        let mut connection = self.address.connect()?;
        let mut waiting = Waiting::default();
        while !self.over.is_said() {
            match self.ask(&mut connection, wanted, patience) {
                Ok(Some(grant)) => return Ok(Some((connection, grant))),
                Ok(None) if patience.is_over() => return Ok(None),
                Ok(None) => waiting.has_begun = true,
                Err(error) if !passes(&error, waiting.has_begun) => {
                    return Err(told(error));
                }
                // Whoever does not wait is told why at once.
                Err(error) if patience.is_over() && !waiting.has_begun => {
                    return Err(told(error));
                }
                Err(_) if patience.is_over() => return Ok(None),
                Err(error) => {
                    waiting.has_begun = true;
                    let pause = self.pause_after(error, &mut waiting);
                    sleep(patience.slice(pause).unwrap_or_default());
                    if let Ok(another) = self.address.connect() {
                        connection = another;
                    }
                }
            }
        }
        Ok(None)
    }

    /// How long to wait after what passes by itself. Why the server refuses is told once.
    fn pause_after(&self, error: RedisError, waiting: &mut Waiting) -> Duration {
        if is_of_the_way(&error) {
            return PAUSE;
        }
        let why = told(error).to_string();
        if waiting.told.as_ref() != Some(&why) {
            self.tell(Event::Note(format!("{why}; asking again")));
            waiting.told = Some(why);
        }
        LONG_PAUSE
    }

    /// Asks for a slice of the wait. A grant that will not do is given back, and the rest
    /// asked for.
    fn ask(
        &mut self,
        connection: &mut Connection,
        wanted: &mut Wanted,
        patience: Patience,
    ) -> RedisResult<Option<Grant>> {
        self.wish.keys = wanted.keys();
        let slice = patience.slice(match wanted.are_all_asked_for() {
            true => SLICE,
            false => SHORT_SLICE,
        });
        if self.wish.keys.len() < self.wish.count {
            sleep(slice.unwrap_or_default().min(PAUSE));
            return Ok(None);
        }
        let sent = clock::now();
        let asked = connection.within(slice.unwrap_or_default().saturating_add(ANSWER));
        let Some(locks) = self.wish.acquire(asked, slice)? else { return Ok(None) };
        connection.within(ANSWER);
        let refused = wanted.refused(&locks);
        if refused.is_empty() {
            return self.confirmed(connection, locks, sent);
        }
        release(connection, &self.wish.owner, &locks, "too little free memory")?;
        refused.into_iter().for_each(|why| self.tell(Event::Note(why)));
        self.ask(connection, wanted, patience)
    }

    /// A grant whose lease began at a moment that is known: one that was waited for, or whose
    /// GPUs took long to be looked at, is renewed first. None: it has run out meanwhile.
    fn confirmed(
        &self,
        connection: &mut Connection,
        locks: Vec<Lock>,
        sent: Moment,
    ) -> RedisResult<Option<Grant>> {
        let answered = clock::now();
        if answered.saturating_sub(sent) < self.wish.lease / 10 {
            return Ok(Some((locks, sent)));
        }
        let locks = extend(connection, &self.wish.owner, &locks, self.wish.lease)?;
        Ok(locks.map(|locks| (locks, answered)))
    }

    /// Looks at the locks until all is over; ties them anew when the connection ends, or is
    /// silent for long.
    fn keep(&self, mut connection: Connection, mut known: Known, granted: Moment) {
        let (mut heard, mut broken) = (granted, false);
        loop {
            sleep(if broken { self.beat().min(PAUSE) } else { self.beat() });
            let sent = clock::now();
            if !broken {
                match self.look(&mut connection, &known) {
                    Ok(Look::Held(left)) => {
                        heard = sent;
                        self.tell(Event::Heard(sent, left));
                    }
                    Ok(Look::Lost) => return self.tell(Event::Lost),
                    Err(error) => broken = !is_silence(&error),
                }
                if broken {
                    self.tell(Event::Broken);
                } else if sent.saturating_sub(heard) < SILENT {
                    continue;
                }
            }
            match self.tie_anew(&mut known) {
                Tied::Anew(another) => {
                    (connection, heard, broken) = (*another, sent, false)
                }
                Tied::NotYet => {}
                Tied::Never => return,
            }
        }
    }

    /// Looks whether the server still has the locks as ours, by the same tokens: those change
    /// when it was started again, which breaks the connection. It may refuse to tell, and is
    /// heard all the same.
    fn look(&self, connection: &mut Connection, known: &Known) -> Result<Look> {
        connection.within(self.beat());
        match still_held(connection, &self.wish.owner, &known.locks) {
            Ok(held) if held.len() < known.locks.len() => Ok(Look::Lost),
            Ok(held) if held.iter().any(Held::is_another) => Ok(Look::Lost),
            Ok(held) => Ok(Look::Held(held.iter().filter_map(|held| held.left).min())),
            Err(error) if error.downcast_ref().is_some_and(is_of_the_way) => Err(error),
            Err(_) => Ok(Look::Held(None)),
        }
    }

    /// Tries to come back on a new connection.
    fn tie_anew(&self, known: &mut Known) -> Tied {
        let Some(_not_over) = self.over.not_yet() else { return Tied::Never };
        let sent = clock::now();
        match self.tie(known) {
            Ok(connection) => {
                self.tell(Event::Renewed(sent));
                self.tell(Event::Heard(sent, None));
                Tied::Anew(Box::new(connection))
            }
            Err(Untied::Lost) => {
                self.tell(Event::Lost);
                Tied::Never
            }
            Err(Untied::Failed(why)) => {
                self.tell(Event::Trouble(why));
                Tied::NotYet
            }
        }
    }

    /// Renews the locks, which grants nothing, and ties them to a new connection, which
    /// might: another token than that of a moment ago is a new grant, and so may one be after
    /// a call of that kind that was not answered.
    fn tie(&self, known: &mut Known) -> Result<Connection, Untied> {
        let mut connection = self.address.connect_within(self.brief())?;
        let Wish { owner, lease, .. } = &self.wish;
        let renewed = extend(&mut connection, owner, &known.locks, *lease)?;
        let renewed = renewed.ok_or(Untied::Lost)?;
        if known.is_doubtful && renewed != known.locks {
            return Err(Untied::Lost);
        }
        known.locks = renewed;
        let tied = self.wish.acquire(&mut connection, None);
        known.is_doubtful |= tied.as_ref().is_err_and(is_of_the_way);
        match tied? {
            Some(tied) if tied == known.locks => {
                known.is_doubtful = false;
                Ok(connection)
            }
            _ => Err(Untied::Lost),
        }
    }

    /// How often to look: a broken connection is to be seen early in the grace.
    fn beat(&self) -> Duration {
        const BOUNDS: (Duration, Duration) =
            (Duration::from_millis(100), Duration::from_secs(1));
        (self.wish.grace / 10).clamp(BOUNDS.0, BOUNDS.1)
    }

    /// How long an attempt to come back may take, so that others fit into the grace.
    fn brief(&self) -> Duration {
        self.beat().saturating_mul(4)
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more when all is over.
        let _over = self.events.send(event);
    }
}

impl From<RedisError> for Untied {
    fn from(error: RedisError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<anyhow::Error> for Untied {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Whether an error passes by itself, so that it is worth to ask again. A replica may become
/// what it was before.
fn passes(error: &RedisError, was_primary: bool) -> bool {
    const CODES: [&str; 10] = [
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MAXWAITERS",
        "MISCONF",
        "NOREPLICAS",
        "OOM",
        "TRYAGAIN",
        "UNBLOCKED",
    ];
    let code = error.code().unwrap_or_default();
    is_of_the_way(error) || CODES.contains(&code) || was_primary && code == "READONLY"
}

/// Whether it was the way to the server that failed.
fn is_of_the_way(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped()
}

/// Whether there was no answer, on a connection that may still stand.
fn is_silence(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(RedisError::is_timeout)
}
