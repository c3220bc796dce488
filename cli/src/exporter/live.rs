//! What the page shows, live: each server is asked each second while somebody looks, once
//! for all who look, and what it answers goes to them as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use axum::response::sse::Event;
use futures_util::stream::{select_all, unfold};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::sleep;
use tokio::{join, spawn};

use super::asked::{self, Lock};
use super::watched::Watched;
use crate::clock;
use crate::replies::{Incident, is_unknown_command};

/// How often a server is asked while somebody looks.
const EVERY: Duration = Duration::from_secs(1);

/// How many may look at once. Their connections live long: with no limit they could be all
/// that there may be, and Prometheus would wait.
const VIEWERS: usize = 64;

/// An event: the state of a server as JSON. None while nobody looks, so that who comes
/// next is not shown what was an hour ago.
type Shown = Option<Arc<str>>;

/// What all viewers share.
pub(crate) struct Live {
    servers: Vec<Arc<Feed>>,
    places: Arc<Semaphore>,
}

/// The states of a server, for all who look.
struct Feed {
    states: watch::Sender<Shown>,
    somebody_came: Notify,
}

/// A server as the page shows it.
#[derive(Serialize)]
struct State<'a> {
    instance: &'a str,
    unix_ms: u64,
    /// Why there is nothing else.
    error: Option<String>,
    module_missing: bool,
    locks: Vec<Lock>,
    /// None: the server's ACL keeps it from us.
    log: Option<Vec<Incident>>,
    may_evict: bool,
}

impl Live {
    /// Begins to watch the servers, once somebody looks.
    pub(crate) fn new(servers: &[Arc<Watched>]) -> Self {
        let servers = servers.iter().cloned().map(Feed::start).collect();
        Self { servers, places: Arc::new(Semaphore::new(VIEWERS)) }
    }

    /// The events for one who looks: the present states first. None: too many look.
    pub(crate) fn events(
        &self,
    ) -> Option<impl Stream<Item = Result<Event, Infallible>> + use<>> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let events = select_all(self.servers.iter().map(|feed| Box::pin(feed.events())));
        // The place is taken for as long as the stream is there.
        Some(events.inspect(move |_| _ = &place))
    }
}

impl Feed {
    fn start(server: Arc<Watched>) -> Arc<Self> {
        let feed = Arc::new(Self {
            states: watch::Sender::new(None),
            somebody_came: Notify::new(),
        });
        spawn(Arc::clone(&feed).keep_asking(server));
        feed
    }

    async fn keep_asking(self: Arc<Self>, server: Arc<Watched>) {
        loop {
            if self.states.receiver_count() == 0 {
                self.states.send_replace(None);
                self.somebody_came.notified().await;
            }
            let state = State::of(&server).await;
            let json = serde_json::to_string(&state).expect("a state has a form in JSON");
            self.states.send_replace(Some(json.into()));
            sleep(EVERY).await;
        }
    }

    fn events(&self) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
        let mut states = self.states.subscribe();
        states.mark_changed();
        self.somebody_came.notify_one();
        unfold(states, |mut states| async {
            loop {
                states.changed().await.ok()?;
                let state = states.borrow_and_update().clone();
                if let Some(state) = state {
                    return Some((Ok(Event::default().data(state)), states));
                }
            }
        })
    }
}

impl<'a> State<'a> {
    async fn of(server: &'a Watched) -> Self {
        let answer = server
            .ask(async |connection| {
                let (locks, log, may_evict) = join!(
                    asked::locks(&connection),
                    asked::log(&connection),
                    asked::may_evict(&connection),
                );
                Ok((locks?, log.ok(), may_evict.unwrap_or(false)))
            })
            .await;
        let instance = server.instance();
        let unix_ms = now_ms();
        match answer {
            Ok((locks, log, may_evict)) => Self {
                instance,
                unix_ms,
                error: None,
                module_missing: false,
                locks,
                log,
                may_evict,
            },
            Err(error) => Self {
                instance,
                unix_ms,
                error: Some(error.to_string()),
                module_missing: error.downcast_ref().is_some_and(is_unknown_command),
                locks: Vec::new(),
                log: None,
                may_evict: false,
            },
        }
    }
}

fn now_ms() -> u64 {
    clock::millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
