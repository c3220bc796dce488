//! A Sentinel: the same program as the servers, which monitors a primary and promotes a
//! replica. It fails over only when a test asks for it, not because the machine is slow.

use crate::server::DEADLINE;
use crate::{Builder, Client, Server, call, wait_until};

/// The name of the primary in the Sentinel.
const NAME: &str = "watched";

/// The time in ms without a reply after which the Sentinel considers a server down: in effect
/// never.
const NEVER: u32 = 3_600_000;
/// The same, while a failover is wanted.
const SOON: u32 = 500;

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
    fn has_failed_over_to(&self, replica: &Server) -> bool {
        self.port == replica.port() && !self.is_failing_over
    }
}

impl Sentinel {
    /// Starts a Sentinel that monitors `primary`, and waits until it knows this number of
    /// replicas.
    #[track_caller]
    pub fn start(primary: &Server, replicas: usize) -> Self {
        Self::start_with(primary, primary.port(), replicas, |sentinel| sentinel)
    }

    /// Like [`Sentinel::start`], with the port at which the primary is monitored, such as that for
    /// TLS, and with settings for the Sentinel.
    #[track_caller]
    pub fn start_with(
        primary: &Server,
        port: u16,
        replicas: usize,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let monitor = format!("monitor {NAME} 127.0.0.1 {port} 1");
        let server = Server::builder(primary.flavour())
            .named("sentinel")
            .without_module()
            .sentinel();
        let server = configure(server)
            .arg("sentinel", monitor)
            .arg("sentinel", format!("down-after-milliseconds {NAME} {NEVER}"))
            // The Sentinel retries an aborted failover after twice this time.
            .arg("sentinel", format!("failover-timeout {NAME} 1000"))
            .start();
        let sentinel = Self { server };
        sentinel.speed_up();
        let what = format!("the sentinel to know {replicas} replicas");
        wait_until(DEADLINE, what, || sentinel.primary().replicas == replicas);
        sentinel
    }

    /// Makes the Sentinel query its servers twice a second, demote servers without a delay,
    /// and never enter TILT mode on a busy machine. Shorter periods would be slower: the
    /// Sentinel trusts a reply for three periods, and queries once a second while the primary
    /// is down.
    fn speed_up(&self) {
        for (name, ms) in
            [("INFO-PERIOD", 500), ("PUBLISH-PERIOD", 100), ("TILT-TRIGGER", NEVER)]
        {
            assert_eq!(
                call!(self.client(), "SENTINEL", "DEBUG", name, ms),
                "OK",
                "{name}"
            );
        }
    }

    /// The address of the monitored primary for `gpulock`, by this Sentinel's port.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/{NAME}", self.port())
    }

    /// Its port on the loopback interface.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// A new connection to the primary that the Sentinel reports.
    #[track_caller]
    pub fn connect_to_primary(&self) -> Client {
        let port = self.primary().port;
        match Client::connect(port, &format!("the primary on port {port}")) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect to the primary, port {port}: {error}"),
        }
    }

    /// Makes the Sentinel notice that the primary is down, and waits until it has promoted
    /// `replica` and reconfigured the other servers.
    #[track_caller]
    pub fn detect_failure_and_promote(&self, replica: &Server) {
        let mut down_after = NEVER;
        wait_until(DEADLINE, format!("{} to be promoted", replica.name()), || {
            let primary = self.primary();
            // Only until the failover begins, or the replica may be considered down as well.
            let has_begun = primary.is_failing_over || primary.port == replica.port();
            let wanted = if has_begun { NEVER } else { SOON };
            if down_after != wanted {
                self.set_down_after(wanted);
                down_after = wanted;
            }
            primary.has_failed_over_to(replica)
        });
    }

    /// Requests a failover from a running primary, and waits like
    /// [`Sentinel::detect_failure_and_promote`].
    #[track_caller]
    pub fn failover_to(&self, replica: &Server) {
        wait_until(DEADLINE, format!("{} to be promoted", replica.name()), || {
            let primary = self.primary();
            // The Sentinel aborts a failover without a replica that replied recently: retry.
            if primary.port != replica.port() && !primary.is_failing_over {
                call!(self.client(), "SENTINEL", "FAILOVER", NAME);
            }
            primary.has_failed_over_to(replica)
        });
    }

    /// Waits until the Sentinel reports that `replica` follows the primary. After that, the
    /// Sentinel closes no more connections, as it does when it changes a server's role.
    #[track_caller]
    pub fn wait_replicates(&self, replica: &Server) {
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

    /// Stops its process (SIGSTOP): it neither promotes nor demotes a server.
    pub fn freeze(&mut self) {
        self.server.freeze();
    }

    /// Resumes its process.
    pub fn thaw(&mut self) {
        self.server.thaw();
    }

    fn set_down_after(&self, ms: u32) {
        let set =
            call!(self.client(), "SENTINEL", "SET", NAME, "down-after-milliseconds", ms);
        assert_eq!(set, "OK");
    }

    /// The state of the primary in one reply.
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
