//! Live updates of the status page. While there are viewers, each server is queried every
//! second, once for all of them, and its state is sent to them as server-sent events.

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

use super::queries::{self, Lock};
use super::target::Target;
use crate::clock;
use crate::exit;
use crate::replies::{LogEntry, is_unknown_command};

/// How often a server is queried while there are viewers.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of viewers. Their connections are long-lived: without a limit they could use
/// up all connections and block Prometheus.
const MAX_VIEWERS: usize = 64;

/// The state of a server as JSON. None without viewers, so that the next viewer does not get an
/// outdated state.
type Published = Option<Arc<str>>;

/// Shared by all viewers.
pub(crate) struct Live {
    servers: Vec<Arc<Feed>>,
    viewers: Arc<Semaphore>,
}

/// The states of a server.
struct Feed {
    states: watch::Sender<Published>,
    viewer_added: Notify,
}

/// The state of a server on the page.
#[derive(Serialize)]
struct State<'a> {
    instance: &'a str,
    unix_ms: u64,
    /// Why the server could not be queried.
    error: Option<String>,
    module_missing: bool,
    locks: Vec<Lock>,
    /// None if the server's ACL denies GPULOCK.LOG.
    log: Option<Vec<LogEntry>>,
    may_evict: bool,
}

impl Live {
    /// Starts the tasks that query the servers while there are viewers.
    pub(crate) fn new(servers: &[Arc<Target>]) -> Self {
        let servers = servers.iter().cloned().map(Feed::start).collect();
        Self { servers, viewers: Arc::new(Semaphore::new(MAX_VIEWERS)) }
    }

    /// The events for one viewer, beginning with the current states. None if there are too many
    /// viewers.
    pub(crate) fn events(
        &self,
    ) -> Option<impl Stream<Item = Result<Event, Infallible>> + use<>> {
        let permit = Arc::clone(&self.viewers).try_acquire_owned().ok()?;
        let events = select_all(self.servers.iter().map(|feed| Box::pin(feed.events())));
        // The stream owns the permit.
        Some(events.inspect(move |_| _ = &permit))
    }
}

impl Feed {
    fn start(server: Arc<Target>) -> Arc<Self> {
        let feed = Arc::new(Self {
            states: watch::Sender::new(None),
            viewer_added: Notify::new(),
        });
        spawn(Arc::clone(&feed).keep_querying(server));
        feed
    }

    async fn keep_querying(self: Arc<Self>, server: Arc<Target>) {
        loop {
            if self.states.receiver_count() == 0 {
                self.states.send_replace(None);
                self.viewer_added.notified().await;
            }
            let state = State::of(&server).await;
            let json = serde_json::to_string(&state).expect("a state can be serialized");
            self.states.send_replace(Some(json.into()));
            sleep(INTERVAL).await;
        }
    }

    fn events(&self) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
        let mut states = self.states.subscribe();
        states.mark_changed();
        self.viewer_added.notify_one();
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
    async fn of(server: &'a Target) -> Self {
        let reply = server
            .query(async |connection| {
                let (locks, log, may_evict) = join!(
                    queries::locks(&connection),
                    queries::log(&connection),
                    queries::may_evict(&connection),
                );
                Ok((locks?, log.ok(), may_evict.unwrap_or(false)))
            })
            .await;
        let instance = server.instance();
        let unix_ms = now_ms();
        match reply {
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
                error: Some(exit::message(&error)),
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
