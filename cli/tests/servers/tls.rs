//! `rediss://`: certificates and the names in them are verified.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::rc::Rc;

use gpulock_testkit::{
    Builder, Cluster, Flavour, Sentinel, Server, call, on_every_server, servers,
};

use crate::certificates::Authority;
use crate::invoke::{Invocation, at};
use crate::job::{Job, UNTIL_STOPPED};
use crate::{CALLS, gpulock_with};

const HOST: &str = "127.0.0.1";

/// A server with TLS, and its address.
fn secured(
    flavour: &Flavour,
    ca: &Authority,
    host: &str,
    clients: &str,
) -> (Server, String) {
    let port = free_port();
    let server = ca.secure(flavour.server(), host, port, clients).start();
    (server, format!("rediss://127.0.0.1:{port}"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn ls(url: &str, options: &[&str]) -> Invocation {
    gpulock_with(&[&["ls", "--url", url], options].concat(), &[])
}

#[track_caller]
fn assert_untrusted(result: &Invocation, why: &str) {
    assert_eq!(result.status, 69, "{result:?}");
    assert!(
        result.err.contains("untrusted server: ") && result.err.contains(why),
        "{result:?}"
    );
}

#[test]
fn every_command_works_with_a_trusted_certificate() {
    on_every_server(|flavour| {
        let ca = Authority::new();
        let (server, url) = secured(flavour, &ca, HOST, "no");
        let certificate = ca.certificate();
        call!(server.client(), "GPULOCK.ACQUIRE", "k", "me");
        let args: [&[&str]; 7] = [
            &["ls"],
            &["inspect", "k"],
            &["queue", "k"],
            &["stats"],
            &["log"],
            &["release", "k", "--owner", "me"],
            &["run", "--key", "k", "--", "true"],
        ];
        for args in args {
            let options = ["--url", &url, "--cacert", &certificate];
            let args = [&args[..1], &options, &args[1..]].concat();
            let result = gpulock_with(&args, &[]);
            assert_eq!((result.status, &*result.err), (0, ""), "{args:?}: {result:?}");
        }
    });
}

#[test]
fn the_variable_replaces_the_systems_trust_store() {
    let ca = Authority::new();
    let (_server, url) = secured(&servers()[0], &ca, HOST, "no");
    let certificate = ca.certificate();
    let trusted = [("SSL_CERT_FILE", &*certificate)];
    let result = gpulock_with(&["ls", "--url", &url], &trusted);
    assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
    // An option replaces both.
    let other = Authority::new().certificate();
    let missing = gpulock_with(&["ls", "--url", &url, "--cacert", &other], &trusted);
    assert_eq!(missing.status, 2, "{missing:?}");
    let empty = gpulock_with(&["ls", "--url", &url], &[("SSL_CERT_FILE", "/nowhere")]);
    assert_eq!(empty.status, 2, "{empty:?}");
    let expected = "found no trusted certificate authorities";
    assert!(empty.err.contains(expected) && empty.err.contains("/nowhere"), "{empty:?}");
}

#[test]
fn an_untrusted_server_is_refused() {
    on_every_server(|flavour| {
        let (ca, other) = (Authority::new(), Authority::new());
        let (_server, url) = secured(flavour, &ca, HOST, "no");
        assert_untrusted(&ls(&url, &[]), "UnknownIssuer");
        assert_untrusted(&ls(&url, &["--cacert", &other.certificate()]), "UnknownIssuer");
        let (_server, url) = secured(flavour, &ca, "other.example", "no");
        for args in CALLS {
            let result = at(&url)
                .args([&args[..1], &["--cacert", &ca.certificate()], &args[1..]].concat())
                .output()
                .expect("starting gpulock");
            assert_untrusted(&result.into(), "not valid for name");
        }
    });
}

#[test]
fn a_server_may_require_a_certificate() {
    on_every_server(|flavour| {
        let ca = Authority::new();
        let (_server, url) = secured(flavour, &ca, HOST, "yes");
        let ca_file = ca.certificate();
        let without = ls(&url, &["--cacert", &ca_file]);
        assert_eq!(without.status, 69, "{without:?}");
        let expected =
            "the server rejected TLS: received fatal alert: CertificateRequired";
        assert!(without.err.contains(expected), "{without:?}");
        let (certificate, key) = ca.issue("client");
        let with = ["--cacert", &ca_file, "--cert", &certificate, "--tls-key", &key];
        let with = ls(&url, &with);
        assert_eq!((with.status, &*with.err), (0, ""), "{with:?}");
    });
}

#[test]
fn a_port_without_tls_is_recognized() {
    on_every_server(|flavour| {
        let ca = Authority::new();
        let (server, _) = secured(flavour, &ca, HOST, "no");
        let plain = format!("rediss://127.0.0.1:{}", server.port());
        let result = ls(&plain, &["--cacert", &ca.certificate()]);
        assert_eq!(result.status, 69, "{result:?}");
        assert!(result.err.contains("is there TLS at this port?"), "{result:?}");
    });
}

#[test]
fn invalid_certificate_files_are_reported() {
    let ca = Authority::new();
    let (certificate, key) = ca.issue("client");
    let ca_file = &*ca.certificate();
    let cases: [(&str, &[&str], &str); 7] = [
        (
            "rediss://127.0.0.1:1",
            &["--cacert", "/nowhere"],
            "invalid --cacert /nowhere: ",
        ),
        ("rediss://127.0.0.1:1", &["--cacert", &key], "it contains no certificate"),
        ("rediss://127.0.0.1:1", &["--cert", &certificate], "--tls-key <FILE>"),
        (
            "rediss://127.0.0.1:1",
            &["--cacert", ca_file, "--cert", &certificate, "--tls-key", &certificate],
            "invalid --tls-key ",
        ),
        (
            "rediss://127.0.0.1:1",
            &["--cacert", ca_file, "--cert", ca_file, "--tls-key", &key],
            "invalid --tls-key ",
        ),
        (
            "redis://127.0.0.1:1",
            &["--cacert", ca_file],
            "--cacert needs an address with TLS",
        ),
        (
            "unix:///nowhere",
            &["--cert", &certificate, "--tls-key", &key],
            "--cert needs an address with TLS",
        ),
    ];
    for (url, options, message) in cases {
        let result = ls(url, options);
        assert_eq!(result.status, 2, "{options:?}: {result:?}");
        assert!(result.err.contains(message), "{message}: {result:?}");
    }
}

#[test]
fn the_exporter_watches_servers_with_and_without_tls() {
    let ca = Authority::new();
    let (server, secure) = secured(&servers()[0], &ca, HOST, "no");
    let plain = format!("redis://127.0.0.1:{}", server.port());
    let mut exporter = at("")
        .args(["exporter", "--listen", "127.0.0.1:0", "--cacert", &ca.certificate()])
        .args(["--server", &secure, "--server", &plain])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting gpulock");
    let mut line = String::new();
    let stderr = exporter.stderr.take().expect("a pipe");
    BufReader::new(stderr).read_line(&mut line).expect("a line");
    let (_, url) = line.trim().split_once("listening on ").expect("an address");
    let metrics = ureq::get(format!("{url}metrics")).call().expect("metrics");
    let metrics = metrics.into_body().read_to_string().expect("a text");
    exporter.kill().expect("killing it");
    exporter.wait().expect("waiting for it");
    for url in [secure, plain] {
        let (_, instance) = url.split_once("://").expect("an address");
        let up = format!("gpulock_up{{instance=\"{instance}\"}} 1");
        assert!(metrics.contains(&up), "{up} in {metrics}");
    }
}

#[test]
fn a_run_and_its_sentinel_use_tls() {
    on_every_server(|flavour| {
        let ca = Authority::new();
        let (port, sentinel_port) = (free_port(), free_port());
        let secure = |server: Builder, port| {
            ca.secure(server, HOST, port, "no").arg("tls-replication", "yes")
        };
        let primary = secure(flavour.server(), port).start();
        let sentinel = Sentinel::start_with(&primary, port, 0, |sentinel| {
            secure(sentinel, sentinel_port)
        });
        let url = sentinel.url().replace("redis+", "rediss+");
        let url = url.replace(&sentinel.port().to_string(), &sentinel_port.to_string());
        let ca_file = ca.certificate();
        let mut job =
            Job::start(&url, &["--key", "k", "--cacert", &ca_file], UNTIL_STOPPED);
        let owner = job.line("owner");
        assert_eq!(call!(primary.client(), "GET", "k"), *owner);
        job.stop();
        assert_eq!(job.status(), 5);
        assert_eq!(call!(primary.client(), "EXISTS", "k"), 0);
    });
}

/// The nodes announce another port to clients with TLS.
#[test]
fn the_node_of_a_lock_is_found_with_tls() {
    on_every_server(|flavour| {
        let ca = Rc::new(Authority::new());
        let ca_file = ca.certificate();
        let cluster = Cluster::start_with(flavour, 2, move |node| {
            ca.secure(node, HOST, free_port(), "no").arg("tls-cluster", "yes")
        });
        for node in cluster.nodes() {
            let port = call!(node.client(), "CONFIG", "GET", "tls-port")
                .field("tls-port")
                .text();
            let url = format!("rediss://127.0.0.1:{port}");
            let mut job =
                Job::start(&url, &["--key", "k", "--cacert", &ca_file], UNTIL_STOPPED);
            let owner = job.line("owner");
            assert_eq!(call!(cluster.primary_of("k").client(), "GET", "k"), *owner);
            job.stop();
            assert_eq!(job.status(), 5);
        }
    });
}
