//! `redis+sentinel://`: a hold follows the primary over failovers.

use std::net::{Ipv4Addr, TcpListener};

use gpulock_testkit::{
    Client, Flavour, Sentinel, Server, call, on_every_server, servers, wait_until,
};

use crate::gpulock_with;
use crate::job::{Job, TIMEOUT, UNTIL_STOPPED, is_alive};

/// A primary, its replica, the Sentinel that promotes it, and something at the address of another
/// Sentinel that accepts connections and does not reply.
struct Service {
    primary: Server,
    replica: Server,
    sentinel: Sentinel,
    silent: TcpListener,
}

impl Service {
    fn start(flavour: &Flavour) -> Self {
        let server = || flavour.server().arg("appendonly", "yes");
        let primary = server().named("primary").start();
        let replica = server().named("replica").replica_of(&primary).start();
        let sentinel = Sentinel::start(&primary, 1);
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        Self { primary, replica, sentinel, silent }
    }

    /// The address, with the Sentinel that works at the end.
    fn url(&self) -> String {
        let silent = self.silent.local_addr().expect("an address");
        self.sentinel.url().replace("//", &format!("//127.0.0.1:1,{silent},"))
    }
}

/// A lease and a grace period that are longer than a failover.
const PATIENT: [&str; 6] = ["--key", "k", "--lease", "60s", "--grace", "60s"];

fn owner_of(client: &mut Client) -> String {
    let owner = call!(client, "GET", "k");
    if owner.is_null() { String::new() } else { owner.text() }
}

/// Checks that the job still runs under its lock at this server, and ends it.
#[track_caller]
fn end_normally(mut job: Job, server: &Server) {
    let mut client = server.client();
    assert_eq!(owner_of(&mut client), job.line("owner"));
    assert!(is_alive(&job.line("pid")), "{}", job.err());
    job.stop();
    assert_eq!(job.status(), 5, "{}", job.err());
    assert_eq!(owner_of(&mut client), "");
}

/// Waits until the lock is tied to a session of this server.
#[track_caller]
fn wait_tied(server: &Server) {
    let mut client = server.client();
    wait_until(TIMEOUT, "the lock to be tied to the new primary", || {
        let lock = call!(client, "GPULOCK.INSPECT", "k");
        !lock.is_null() && !lock.field("session").is_null()
    });
}

#[test]
fn a_hold_survives_the_death_of_the_primary() {
    on_every_server(|flavour| {
        let service = Service::start(flavour);
        let url = service.url();
        let Service { mut primary, replica, sentinel, silent: _silent } = service;
        let job = Job::start(&url, &PATIENT, UNTIL_STOPPED);
        job.line("pid");
        replica.wait_caught_up_with(&primary);
        primary.kill9();
        sentinel.detect_failure_and_promote(&replica);
        wait_tied(&replica);
        end_normally(job, &replica);
    });
}

#[test]
fn a_hold_survives_a_planned_failover() {
    on_every_server(|flavour| {
        let service = Service::start(flavour);
        let url = service.url();
        let Service { primary, replica, sentinel, silent: _silent } = service;
        let job = Job::start(&url, &PATIENT, UNTIL_STOPPED);
        job.line("pid");
        replica.wait_caught_up_with(&primary);
        sentinel.failover_to(&replica);
        wait_tied(&replica);
        sentinel.wait_replicates(&primary);
        end_normally(job, &replica);
    });
}

/// The lease is too short for the failover: the command must be dead before the next owner can
/// have the lock.
#[test]
fn a_hold_that_does_not_survive_ends_the_command_first() {
    let service = Service::start(&servers()[0]);
    let url = service.url();
    let Service { mut primary, replica, sentinel, silent: _silent } = service;
    let args = ["--key", "k", "--lease", "4s", "--grace", "2s"];
    let mut job = Job::start(&url, &args, UNTIL_STOPPED);
    let pid = job.line("pid");
    replica.wait_caught_up_with(&primary);
    primary.kill9();
    assert_eq!(job.status(), 76, "{}", job.err());
    assert!(!is_alive(&pid));
    sentinel.detect_failure_and_promote(&replica);
    let mut next = replica.client();
    let next = next.line("GPULOCK.ACQUIRE k next EX 60 BLOCK 20000");
    assert!(next.int() > 0);
}

#[test]
fn a_wait_follows_the_primary() {
    on_every_server(|flavour| {
        let service = Service::start(flavour);
        let url = service.url();
        let Service { mut primary, replica, sentinel, silent: _silent } = service;
        call!(primary.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
        let job = Job::start(&url, &PATIENT, UNTIL_STOPPED);
        primary.wait_blocked(1);
        replica.wait_caught_up_with(&primary);
        primary.kill9();
        sentinel.detect_failure_and_promote(&replica);
        replica.wait_blocked(1);
        assert_eq!(call!(replica.client(), "GPULOCK.RELEASE", "k", "other"), 1);
        job.line("pid");
        end_normally(job, &replica);
    });
}

#[test]
fn sentinels_are_asked_in_turn() {
    on_every_server(|flavour| {
        let service = Service::start(flavour);
        let Service { primary, replica, sentinel, .. } = &service;
        call!(primary.client(), "GPULOCK.ACQUIRE", "gpu:0", "me");
        let url = service.url();
        let result = gpulock_with(&["ls", "--url", &url], &[]);
        assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
        assert!(result.out.contains("gpu:0"), "{result:?}");

        let unaware = Sentinel::start(replica, 0);
        let result = gpulock_with(&["ls", "--url", &unaware.url()], &[]);
        assert_eq!(result.status, 69, "{result:?}");
        assert!(result.err.contains("is not a primary"), "{result:?}");
        let url = sentinel.url().replace("watched", "other");
        let result = gpulock_with(&["ls", "--url", &url], &[]);
        assert_eq!(result.status, 1, "{result:?}");
        assert!(result.err.contains("does not know the service \"other\""), "{result:?}");
        let url = format!("redis+sentinel://127.0.0.1:{}/watched", primary.port());
        let result = gpulock_with(&["ls", "--url", &url], &[]);
        assert_eq!(result.status, 1, "{result:?}");
        assert!(result.err.contains("it is a server, not a Sentinel"), "{result:?}");
        let result =
            gpulock_with(&["ls", "--url", "redis+sentinel://127.0.0.1:1/watched"], &[]);
        assert_eq!(result.status, 69, "{result:?}");
        assert!(
            result.err.contains("Sentinel 127.0.0.1:1: Connection refused"),
            "{result:?}"
        );
    });
}

#[test]
fn the_password_is_that_of_the_primary_and_of_sentinels_that_require_one() {
    on_every_server(|flavour| {
        for sentinel_password in [None, Some("secret")] {
            let primary = flavour.server().arg("requirepass", "secret").start();
            let sentinel =
                Sentinel::start_with(&primary, primary.port(), 0, |sentinel| sentinel);
            if let Some(password) = sentinel_password {
                let mut client =
                    Client::connect(sentinel.port(), "the sentinel").expect("it");
                let set = format!("ACL SETUSER default resetpass >{password}");
                assert_eq!(client.line(&set), "OK");
            }
            let url = sentinel.url().replace("//", "//:secret@");
            let result = gpulock_with(&["ls", "--url", &url], &[]);
            assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
            let result = gpulock_with(&["ls", "--url", &sentinel.url()], &[]);
            assert_eq!(result.status, 1, "{result:?}");
            assert!(result.err.contains("the server requires a password"), "{result:?}");
        }
    });
}
