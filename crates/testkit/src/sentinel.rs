//! One Sentinel: the same program as the servers, which watches a primary and promotes a
//! replica. It fails over when a test says so, never because a busy machine was slow.

use crate::server::DEADLINE;
use crate::{Client, Server, call, wait_until};

/// What the Sentinel calls the primary and its replicas.
const NAME: &str = "watched";

/// After how many ms without an answer a server is taken for dead: never, and soon.
const PATIENT: u32 = 3_600_000;
const ALERT: u32 = 500;

/// A running Sentinel.
pub struct Sentinel {
    server: Server,
}

/// The primary as the Sentinel knows it.
struct Primary {
    port: u16,
    replicas: usize,
    is_failing_over: bool,
}

impl Primary {
    fn is_settled_on(&self, heir: &Server) -> bool {
        self.port == heir.port() && !self.is_failing_over
    }
}

impl Sentinel {
    /// Starts one that watches `primary`, and waits until it knows so many replicas.
    #[track_caller]
    pub fn start(primary: &Server, replicas: usize) -> Self {
        let watched = format!("monitor {NAME} 127.0.0.1 {} 1", primary.port());
        let server = Server::builder(primary.flavour())
            .named("sentinel")
            .without_module()
            .sentinel()
            .arg("sentinel", watched)
            .arg("sentinel", format!("down-after-milliseconds {NAME} {PATIENT}"))
            // A failover that came to nothing is tried again after twice that.
            .arg("sentinel", format!("failover-timeout {NAME} 1000"))
            .start();
        let sentinel = Self { server };
        sentinel.hurry();
        let what = format!("the sentinel to know {replicas} replicas");
        wait_until(DEADLINE, what, || sentinel.primary().replicas == replicas);
        sentinel
    }

    /// Lets it ask its servers twice a second how they are, demote at once who should be a
    /// replica, and never believe, on a busy machine, that the clock was stepped. Asking
    /// oftener would be slower: it trusts an answer for three periods, and asks once a
    /// second while the primary is down.
    fn hurry(&self) {
        for (name, ms) in
            [("INFO-PERIOD", 500), ("PUBLISH-PERIOD", 100), ("TILT-TRIGGER", PATIENT)]
        {
            assert_eq!(
                call!(self.client(), "SENTINEL", "DEBUG", name, ms),
                "OK",
                "{name}"
            );
        }
    }

    /// A new connection to the primary, found as clients find it.
    #[track_caller]
    pub fn to_primary(&self) -> Client {
        let port = self.primary().port;
        match Client::connect(port, &format!("the primary on port {port}")) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect to the primary, port {port}: {error}"),
        }
    }

    /// Lets it find out that the primary does not answer, and waits until it has promoted
    /// `heir` and told the others.
    #[track_caller]
    pub fn fails_over_to(&self, heir: &Server) {
        let mut patience = PATIENT;
        wait_until(DEADLINE, format!("{} to be promoted", heir.name()), || {
            let primary = self.primary();
            // Only until it begins, so that it does not take the heir for dead as well.
            let has_begun = primary.is_failing_over || primary.port == heir.port();
            let wanted = if has_begun { PATIENT } else { ALERT };
            if patience != wanted {
                self.set_patience(wanted);
                patience = wanted;
            }
            primary.is_settled_on(heir)
        });
    }

    /// Asks it for a failover from a primary that lives, and waits as
    /// [`Sentinel::fails_over_to`] does.
    #[track_caller]
    pub fn fail_over_orderly_to(&self, heir: &Server) {
        wait_until(DEADLINE, format!("{} to be promoted", heir.name()), || {
            let primary = self.primary();
            // One that finds no replica that it heard of just now is given up: ask again.
            if primary.port != heir.port() && !primary.is_failing_over {
                call!(self.client(), "SENTINEL", "FAILOVER", NAME);
            }
            primary.is_settled_on(heir)
        });
    }

    /// Waits until `replica` follows the primary, as the Sentinel hears. It closes all
    /// connections to a server whose role it changes: none are closed any more then.
    #[track_caller]
    pub fn wait_follows(&self, replica: &Server) {
        let (port, primary) =
            (replica.port().to_string(), self.primary().port.to_string());
        wait_until(DEADLINE, format!("{} to follow", replica.name()), || {
            let known = call!(self.client(), "SENTINEL", "REPLICAS", NAME);
            known.list().iter().any(|one| {
                one.field("port") == *port
                    && one.field("role-reported") == "slave"
                    && one.field("master-port") == *primary
                    && one.field("master-link-status") == "ok"
            })
        });
    }

    /// Stops it in its tracks: nobody is promoted or demoted.
    pub fn freeze(&mut self) {
        self.server.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.server.thaw();
    }

    fn set_patience(&self, ms: u32) {
        let set =
            call!(self.client(), "SENTINEL", "SET", NAME, "down-after-milliseconds", ms);
        assert_eq!(set, "OK");
    }

    /// What it says of the primary, all at one moment.
    fn primary(&self) -> Primary {
        let seen = call!(self.client(), "SENTINEL", "MASTER", NAME);
        Primary {
            port: seen.field("port").text().parse().expect("a port"),
            replicas: seen.field("num-slaves").text().parse().expect("a number"),
            is_failing_over: seen.field("flags").text().contains("failover_in_progress"),
        }
    }

    fn client(&self) -> Client {
        self.server.client()
    }
}
