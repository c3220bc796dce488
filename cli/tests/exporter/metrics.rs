//! `/metrics`: the metrics of all servers and of the exporter itself, whatever happens to the
//! servers.

use std::collections::BTreeMap;

use crate::TIMEOUT;
use crate::exporter::{Exporter, command, instance, url};
use crate::series::value;
use gpulock_testkit::{AclUser, Server, call, on_every_server, send, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn wait_value(exporter: &Exporter, name: &str, server: &Server, expected: Option<f64>) {
    let instance = instance(server);
    wait_until(TIMEOUT, format!("{name} of {instance} to be {expected:?}"), || {
        value(&exporter.metrics(), name, &instance) == expected
    });
}

#[test]
fn several_servers_share_families_and_keep_their_values() {
    on_every_server(|flavour| {
        let servers = [flavour.start(), flavour.start()];
        let mut clients = servers.each_ref().map(Server::client);
        assert!(call!(clients[0], "GPULOCK.ACQUIRE", "gpu \"0\"\n", "a").int() > 0);
        assert_eq!(call!(clients[1], "GPULOCK.RELEASE", "gpu:0", "b"), 0);

        let exporter = Exporter::of(&servers.each_ref());
        let text = exporter.metrics();

        for (server, client) in servers.iter().zip(&mut clients) {
            let label = format!("instance=\"{}\"", instance(server));
            let own = call!(client, "GPULOCK.METRICS").text();
            for line in own.lines() {
                let expected = match (line.starts_with('#'), line.split_once('{')) {
                    (true, _) => line.to_owned(),
                    (false, Some((name, rest))) => format!("{name}{{{label},{rest}"),
                    (false, None) => line.replacen(' ', &format!("{{{label}}} "), 1),
                };
                assert!(text.lines().any(|line| line == expected), "no {expected}");
            }
        }
        let mut heads = BTreeMap::<&str, usize>::new();
        for head in text.lines().filter(|line| line.starts_with('#')) {
            *heads.entry(head).or_default() += 1;
        }
        assert!(heads.values().all(|times| *times == 1), "{heads:?}");
        assert!(text.contains(r#"key="gpu \"0\"\n""#));
    });
}

/// The exporter reads 64 locks at a time.
#[test]
fn the_portions_of_a_server_are_joined() {
    on_every_server(|flavour| {
        let limit = ["gpulock.tracked-keys", "300"];
        let server = flavour.server().module_args(&limit).start();
        let mut client = server.client();
        for n in 0..301 {
            call!(client, "GPULOCK.ACQUIRE", format!("gpu:{n}"), "me").int();
            assert_eq!(call!(client, "GPULOCK.RELEASE", format!("gpu:{n}"), "me"), 1);
        }
        let text = Exporter::of(&[&server]).metrics();
        let instance = instance(&server);
        for n in 1..301 {
            let labels = format!("{{instance=\"{instance}\",db=\"0\",key=\"gpu:{n}\"}} ");
            for family in ["acquired_total", "locks_held", "hold_seconds_count"] {
                let series = format!("gpulock_lock_{family}{labels}");
                let lines = text.lines().filter(|line| line.starts_with(&series));
                assert_eq!(lines.count(), 1, "{series}");
            }
        }
        // The least recently used lock gave way to another.
        assert!(!text.contains("key=\"gpu:0\""));
        let untracked = "gpulock_untracked_acquired_total";
        assert_eq!(value(&text, untracked, &instance), Some(1.0));
        // All lines of a family are together, after one HELP and one TYPE line.
        let mut families = Vec::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# HELP ") {
                families.push(head.split(' ').next().expect("a name"));
            } else if !line.starts_with('#') {
                let family = families.last().expect("a HELP line");
                assert!(line.starts_with(family), "{line} in {family}");
            }
        }
        let count = families.len();
        families.sort_unstable();
        families.dedup();
        assert_eq!(families.len(), count);
    });
}

#[test]
fn a_hanging_server_is_down_and_delays_no_other() {
    on_every_server(|flavour| {
        let (mut hung, well) = (flavour.start(), flavour.start());
        let exporter = Exporter::with_short_timeout(&[&hung, &well]);
        wait_value(&exporter, "gpulock_up", &hung, Some(1.0));

        hung.freeze();
        let threads = || {
            let tasks = format!("/proc/{}/task", exporter.pid());
            std::fs::read_dir(tasks).expect("it runs").count()
        };
        for _ in 0..3 {
            let text = exporter.metrics();
            assert_eq!(value(&text, "gpulock_up", &instance(&hung)), Some(0.0));
            assert_eq!(value(&text, "gpulock_module_loaded", &instance(&hung)), None);
            assert_eq!(value(&text, "gpulock_up", &instance(&well)), Some(1.0));
            assert_eq!(value(&text, "gpulock_locks_held", &instance(&well)), Some(0.0));
        }
        assert!(threads() <= 5, "{} threads", threads());
        assert_eq!(exporter.get("/healthz").status, 200);

        hung.thaw();
        wait_value(&exporter, "gpulock_up", &hung, Some(1.0));
    });
}

#[test]
fn a_restarted_server_is_up_at_once() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        wait_value(&exporter, "gpulock_up", &server, Some(1.0));

        server.restart();
        let text = exporter.metrics();
        assert_eq!(value(&text, "gpulock_up", &instance(&server)), Some(1.0), "{text}");

        server.kill9();
        let text = exporter.metrics();
        assert_eq!(value(&text, "gpulock_up", &instance(&server)), Some(0.0), "{text}");
        assert_eq!(value(&text, "gpulock_locks_held", &instance(&server)), None);

        server.restart();
        wait_value(&exporter, "gpulock_up", &server, Some(1.0));
    });
}

#[test]
fn a_server_without_the_module_is_reported() {
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        let text = Exporter::of(&[&server]).metrics();
        assert_eq!(value(&text, "gpulock_up", &instance(&server)), Some(0.0));
        assert_eq!(value(&text, "gpulock_module_loaded", &instance(&server)), Some(0.0));
    });
}

#[test]
fn the_eviction_policy_is_reported() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        wait_value(&exporter, "gpulock_may_evict", &server, Some(0.0));
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let mut client = server.client();
            assert_eq!(call!(client, "CONFIG", "SET", "maxmemory-policy", policy), "OK");
            wait_value(&exporter, "gpulock_may_evict", &server, Some(1.0));
        }
    });
}

#[test]
fn current_holds_and_waits_are_reported() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let instance = instance(&server);
        let exporter = Exporter::of(&[&server]);
        let seconds = |name| value(&exporter.metrics(), name, &instance).expect(name);
        assert!(seconds("gpulock_oldest_hold_seconds").abs() < f64::EPSILON);
        assert!(seconds("gpulock_longest_wait_seconds").abs() < f64::EPSILON);

        let (mut holder, mut waiter) = (server.client(), server.client());
        assert!(call!(holder, "GPULOCK.ACQUIRE", "gpu:0", "a", "EX", 600).int() > 0);
        send!(waiter, "GPULOCK.ACQUIRE", "gpu:0", "b", "BLOCK", 0);
        server.wait_blocked(1);
        wait_until(TIMEOUT, "a hold and a wait of a second", || {
            seconds("gpulock_longest_wait_seconds") >= 1.0
                && seconds("gpulock_oldest_hold_seconds")
                    >= seconds("gpulock_longest_wait_seconds").floor()
        });
    });
}

/// The user `reader` of docs/operations.md. The instance label has no password.
#[test]
fn the_documented_reader_user_is_sufficient() {
    let reader = AclUser::documented("reader");
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        reader.create(&mut client);
        assert!(call!(client, "GPULOCK.ACQUIRE", "gpu_lock:0", "a").int() > 0);

        let exporter = Exporter::of_urls(&[reader.url(server.port())]);
        let text = exporter.metrics();
        assert_eq!(value(&text, "gpulock_locks_held", &instance(&server)), Some(1.0));
        assert_eq!(value(&text, "gpulock_may_evict", &instance(&server)), Some(0.0));
        assert!(
            value(&text, "gpulock_oldest_hold_seconds", &instance(&server)).is_some()
        );
        assert!(!text.contains("secret"), "{text}");
        let event = exporter.events().next().expect("an event");
        assert_eq!(event["locks"][0]["owner"], "a", "{event}");
        assert_eq!(event["log"].as_array().map(Vec::len), Some(0), "{event}");
    });
}

/// Metrics that the user may not read are absent; the others are present.
#[test]
fn a_user_with_fewer_permissions_gets_fewer_metrics() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let rules = "ACL SETUSER reader on >x ~* -@all +gpulock.metrics";
        assert_eq!(server.client().line(rules), "OK");
        let url = format!("redis://reader:x@127.0.0.1:{}", server.port());
        let exporter = Exporter::of_urls(&[url]);
        let text = exporter.metrics();
        let value = |name| value(&text, name, &instance(&server));
        assert_eq!(value("gpulock_up"), Some(1.0));
        assert_eq!(value("gpulock_locks_held"), Some(0.0));
        assert_eq!(value("gpulock_may_evict"), None);
        assert_eq!(value("gpulock_oldest_hold_seconds"), None);
        let event = exporter.events().next().expect("an event");
        assert!(
            event["error"].as_str().is_some_and(|e| e.contains("no permissions")),
            "{event}"
        );
    });
}

#[test]
fn servers_are_read_from_the_environment_and_must_differ() {
    on_every_server(|flavour| {
        let servers = [flavour.start(), flavour.start()];
        let urls = servers.each_ref().map(url);
        let mut two = command();
        two.args(["--listen", "127.0.0.1:0"]).env("GPULOCK_SERVERS", urls.join(" "));
        let text = Exporter::start(&mut two).metrics();
        for server in &servers {
            assert_eq!(value(&text, "gpulock_up", &instance(server)), Some(1.0));
        }

        let mut one = command();
        one.args(["--listen", "127.0.0.1:0", "--url", &urls[0]]);
        let text = Exporter::start(&mut one).metrics();
        assert_eq!(value(&text, "gpulock_up", &instance(&servers[0])), Some(1.0));
        assert_eq!(value(&text, "gpulock_up", &instance(&servers[1])), None);

        let twice = command()
            .args(["--listen", "127.0.0.1:0", "--server", &urls[0], "--server", &urls[0]])
            .output()
            .expect("running it");
        assert_eq!(twice.status.code(), Some(2));
        let stderr = String::from_utf8_lossy(&twice.stderr);
        assert!(stderr.contains("is given twice"), "{stderr}");
    });
}

#[test]
fn sigterm_ends_the_exporter_with_success_despite_viewers() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let exporter = Exporter::of(&[&server]);
        let mut events = exporter.events();
        assert!(events.next().is_some());
        let pid = Pid::from_raw(exporter.pid().cast_signed());
        kill(pid, Signal::SIGTERM).expect("a signal is sent");
        assert!(exporter.wait().success());
    });
}
