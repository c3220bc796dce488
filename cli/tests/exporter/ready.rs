//! `/-/healthy` and `/-/ready`, the probes of an orchestrator.

use gpulock_testkit::on_every_server;

use crate::exporter::{Exporter, alone, urls};

#[test]
fn an_exporter_without_a_server_is_healthy_but_not_ready() {
    let exporter = alone();
    for path in ["/-/healthy", "/healthz"] {
        let reply = exporter.get(path);
        assert_eq!((reply.status, &*reply.body), (200, "ok\n"), "{path}");
    }
    let reply = exporter.get("/-/ready");
    assert_eq!(reply.status, 503);
    let expected = "127.0.0.1:1: Connection refused";
    assert!(reply.body.starts_with(expected), "{}", reply.body);
    assert_eq!(reply.body.lines().count(), 1, "{}", reply.body);
}

#[test]
fn an_exporter_is_ready_from_the_first_reply_of_a_server_on() {
    on_every_server(|flavour| {
        let (mut server, mut hung) = (flavour.start(), flavour.start());
        hung.freeze();
        let mut urls = urls(&[&server, &hung]);
        urls.push("redis://127.0.0.1:1".to_owned());
        server.stop();
        let exporter = Exporter::with_short_timeout_of(&urls);
        let reply = exporter.get("/-/ready");
        assert_eq!(reply.status, 503);
        assert_eq!(reply.body.lines().count(), 3, "{}", reply.body);

        server.restart();
        let reply = exporter.get("/-/ready");
        assert_eq!((reply.status, &*reply.body), (200, "ok\n"));
        server.stop();
        assert_eq!(exporter.get("/-/ready").status, 200);
        hung.thaw();
    });
}

#[test]
fn an_exporter_that_was_scraped_is_ready() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        let exporter = Exporter::of_urls(&urls(&[&server]));
        assert_eq!(exporter.get("/metrics").status, 200);
        server.stop();
        assert_eq!(exporter.get("/-/ready").status, 200);
    });
}

#[test]
fn a_server_that_cannot_be_scraped_does_not_make_it_ready() {
    on_every_server(|flavour| {
        let bare = flavour.server().without_module().start();
        let server = flavour.start();
        server.client().line("ACL SETUSER viewer on >secret ~* +gpulock.list");
        let denied = format!("redis://viewer:secret@127.0.0.1:{}", server.port());
        let wrong = format!("redis://viewer:wrong@127.0.0.1:{}/1", server.port());
        for (url, why) in [
            (urls(&[&bare]).remove(0), "unknown command"),
            (denied, "permission"),
            (wrong, "pass"),
        ] {
            let reply = Exporter::of_urls(&[url]).get("/-/ready");
            assert_eq!(reply.status, 503, "{why}");
            assert!(
                reply.body.to_lowercase().contains(&why.to_lowercase()),
                "{}",
                reply.body
            );
            assert!(!reply.body.contains("secret"), "{}", reply.body);
        }
    });
}
