//! Passwords: from the URL, `REDISCLI_AUTH` or a file, and not handed on to the command.

use std::fs;
use std::path::Path;
use std::process;

use gpulock_testkit::{Server, on_every_server, servers};

use crate::gpulock_with;
use crate::job::{Job, UNTIL_STOPPED};

const SECRET: &str = "hunter2-6a1f";

fn protected() -> Server {
    servers()[0].server().arg("requirepass", SECRET).start()
}

fn url(server: &Server, password: &str) -> String {
    format!("redis://{password}127.0.0.1:{}", server.port())
}

#[test]
fn the_password_comes_from_a_file_the_url_or_the_variable_in_this_order() {
    on_every_server(|flavour| {
        let server = flavour.server().arg("requirepass", SECRET).start();
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            path.to_str().expect("a path").to_owned()
        };
        let (right, wrong) =
            (file("right", &format!("{SECRET}\nmore\n")), file("wrong", "x"));
        let with_secret = format!(":{SECRET}@");
        let cases: [(&str, &[&str], Option<&str>, i32); 8] = [
            ("", &[], None, 1),
            ("", &[], Some(SECRET), 0),
            ("", &[], Some(""), 1),
            ("default@", &[], Some(SECRET), 0),
            (&with_secret, &[], Some("x"), 0),
            (":x@", &[], Some(SECRET), 1),
            (":x@", &["--password-file", &right], Some("x"), 0),
            (&with_secret, &["--password-file", &wrong], Some(SECRET), 1),
        ];
        for (in_url, options, variable, status) in cases {
            let url = url(&server, in_url);
            let args = [&["ls", "--url", &url], options].concat();
            let variable = variable.map(|value| ("REDISCLI_AUTH", value));
            let result = gpulock_with(&args, variable.as_slice());
            assert_eq!(result.status, status, "{args:?} {variable:?}: {result:?}");
            assert!(!result.err.contains(SECRET), "{result:?}");
        }
    });
}

/// The variable may be set for another server.
#[test]
fn a_server_without_a_password_ignores_the_variable() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let url = url(&server, "");
        let result = gpulock_with(&["ls", "--url", &url], &[("REDISCLI_AUTH", SECRET)]);
        assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
    });
}

#[test]
fn an_invalid_password_file_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    fs::write(path("empty"), "").expect("a file");
    fs::write(path("blank"), "\nsecret\n").expect("a file");
    fs::write(path("binary"), b"\xff\n").expect("a file");
    for (name, why) in [
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("empty", "its first line must be the password"),
        ("blank", "its first line must be the password"),
        ("binary", "the password is not valid UTF-8"),
    ] {
        let path = path(name);
        let result = gpulock_with(&["ls", "--password-file", &path], &[]);
        assert_eq!(result.status, 2, "{result:?}");
        let expected = format!("gpulock: invalid --password-file {path}: {why}");
        assert!(result.err.starts_with(&expected), "{expected} in {result:?}");
    }
}

#[test]
fn the_command_and_its_helpers_do_not_see_the_password() {
    // Unlike the password of the other tests, which run at the same time.
    let password = &format!("hunter3-{}", process::id());
    let server = servers()[0].server().start();
    let mut admin = server.client();
    admin.line(&format!("ACL SETUSER me on >{password} ~* &* +@all"));
    admin.line("ACL SETUSER default off");
    let secret = url(&server, &format!("me:{password}@"));
    let script = format!("env >env; {UNTIL_STOPPED}");
    let mut job = Job::start_with(&secret, &["--key", "k"], &script, |command| {
        command.env("REDISCLI_AUTH", password);
        command.env("GPULOCK_SERVERS", format!("{secret} redis://other"));
    });
    job.line("pid");
    let env = job.line("env");
    let without = url(&server, "me@");
    let servers = format!("GPULOCK_SERVERS={without} redis://other");
    for line in [format!("GPULOCK_URL={without}"), servers] {
        assert!(env.lines().any(|one| one == line), "{line} in {env}");
    }
    assert!(!env.contains(password) && !env.contains("REDISCLI_AUTH"), "{env}");
    // The initial environment of `gpulock` itself cannot be changed.
    assert_eq!(with_text(password), [(job.pid().to_string(), "environ")]);
    job.stop();
    assert_eq!(job.status(), 5);
}

/// The processes whose command line or environment contains this text.
fn with_text(text: &str) -> Vec<(String, &'static str)> {
    let contains = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    };
    let mut found = Vec::new();
    for folder in fs::read_dir("/proc").expect("processes").flatten() {
        for file in ["cmdline", "environ"] {
            if contains(&folder.path().join(file)) {
                found.push((folder.file_name().to_string_lossy().into_owned(), file));
            }
        }
    }
    found
}

#[test]
fn on_lost_does_not_see_the_password() {
    let server = protected();
    let mut admin = server.client();
    admin.line(&format!("AUTH {SECRET}"));
    let url = url(&server, &format!(":{SECRET}@"));
    let args = ["--key", "k", "--on-lost", "env >lost"];
    let mut job = Job::start(&url, &args, UNTIL_STOPPED);
    job.line("pid");
    admin.line("DEL k");
    assert_eq!(job.status(), 76);
    assert!(!job.line("lost").contains(SECRET));
}
