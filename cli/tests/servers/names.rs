//! Host names with several addresses.

use std::fs;

use gpulock_testkit::{on_every_server, servers};

use crate::invoke::{Invocation, at};
use crate::namespace::unshare;

/// Runs `gpulock ls` in a mount namespace with its own `/etc/hosts`. None if that is not permitted.
fn ls_with_hosts(hosts: &str, url: &str) -> Option<Invocation> {
    let mut command = unshare(&["--mount"])?;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hosts");
    fs::write(&file, hosts).expect("a file");
    let gpulock = at(url);
    command.args(["sh", "-c", "mount --bind \"$1\" /etc/hosts && exec \"$2\" ls", "sh"]);
    command.arg(file).arg(gpulock.get_program()).env("GPULOCK_URL", url);
    Some(Invocation::from(command.output().expect("starting unshare")))
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let url = format!("redis://two.test:{}", server.port());
        // The server listens on the first address of this network only.
        for hosts in [
            "127.0.0.1 two.test\n127.0.0.2 two.test\n",
            "127.0.0.2 two.test\n127.0.0.1 two.test\n",
            "127.0.0.2 two.test\n127.0.0.3 two.test\n127.0.0.1 two.test\n",
        ] {
            let Some(result) = ls_with_hosts(hosts, &url) else { return };
            assert_eq!((result.status, &*result.err), (0, ""), "{hosts}: {result:?}");
        }
    });
}

#[test]
fn a_name_without_a_server_is_reported() {
    let server = servers()[0].start();
    let hosts = "127.0.0.2 two.test\n127.0.0.3 two.test\n";
    let url = |host| format!("redis://{host}:{}", server.port());
    let Some(dead) = ls_with_hosts(hosts, &url("two.test")) else { return };
    assert_eq!(dead.status, 69, "{dead:?}");
    assert!(dead.err.contains("Connection refused"), "{dead:?}");
    let Some(unknown) = ls_with_hosts(hosts, &url("three.test")) else { return };
    assert_eq!(unknown.status, 69, "{unknown:?}");
    assert!(
        unknown.err.contains("failed to look up the host \"three.test\""),
        "{unknown:?}"
    );
}
