//! A `/proc` that does not show the processes of this PID namespace: `gpulock run` could not
//! find the processes of its command, and refuses to start it.

use gpulock_testkit::{Server, servers};

use crate::namespace;
use crate::runner::{Builder, builder};

/// A script in new namespaces, with `gpulock` as `$GPULOCK`. None if that is not permitted.
fn unshare(server: &Server, options: &[&str], script: &str) -> Option<Builder> {
    let mut unshare = namespace::unshare(options)?;
    unshare.args(["sh", "-c", script]);
    unshare.env("GPULOCK", env!("CARGO_BIN_EXE_gpulock"));
    unshare.env("GPULOCK_URL", format!("redis://127.0.0.1:{}", server.port()));
    Some(builder(unshare))
}

const PID_NAMESPACE: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount"];

#[test]
fn the_proc_of_another_namespace_is_refused_before_any_lock_is_acquired() {
    let server = servers()[0].server().start();
    let run = "$GPULOCK run --key k -- touch ran";
    for (options, script, why) in [
        (&PID_NAMESPACE[..], run.to_owned(), "another PID namespace"),
        (&["--mount"], format!("mount -t tmpfs none /proc; {run}"), "shows no processes"),
    ] {
        let Some(builder) = unshare(&server, options, &script) else { return };
        let (status, run) = builder.status();
        assert_eq!(status, 1, "{}", run.err());
        assert!(run.err().contains(why), "{}", run.err());
        assert!(run.err().contains("mount -t proc proc /proc"), "{}", run.err());
        assert!(!run.path("ran").exists());
        assert_eq!(server.info_int("gpulock", "gpulock_acquire_requests"), 0);
    }
}

#[test]
fn a_namespace_with_its_own_proc_is_supported() {
    let server = servers()[0].server().start();
    let script = "mount -t proc proc /proc; $GPULOCK run --key k -- \
                  sh -c 'setsid sleep 600 & echo $! >stray; exit 4'";
    let Some(builder) = unshare(&server, &PID_NAMESPACE, script) else { return };
    let (status, run) = builder.status();
    assert_eq!(status, 4, "{}", run.err());
    assert!(run.err().contains("left running"), "{}", run.err());
}
