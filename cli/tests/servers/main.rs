//! Addresses of servers, and what is reported if one cannot be used.
//!
//! # Layout
//! - [`errors`]: the server's own words, and invalid options
//! - [`credentials`]: where passwords come from, and who does not see them
//! - [`tls`], [`certificates`]: TLS; [`names`]: host names
//! - [`sentinel`], [`cluster`]: a hold across failovers and migrations; [`job`]: the command
//!   that has it

mod certificates;
mod cluster;
mod credentials;
mod errors;
#[path = "../support/invoke.rs"]
mod invoke;
mod job;
mod names;
#[path = "../support/namespace.rs"]
mod namespace;
mod sentinel;
mod tls;

/// An invocation of each command that uses the server.
const CALLS: [&[&str]; 8] = [
    &["ls"],
    &["inspect", "k"],
    &["queue", "k"],
    &["stats"],
    &["log"],
    &["release", "k", "--owner", "me"],
    &["force", "k", "--any", "--yes"],
    &["run", "--key", "k", "--no-wait", "--", "true"],
];

/// Runs the program without any variable that names a server.
fn gpulock_with(args: &[&str], variables: &[(&str, &str)]) -> invoke::Invocation {
    let mut command = invoke::at("");
    command
        .env_remove("GPULOCK_URL")
        .env_remove("SSL_CERT_DIR")
        .args(args)
        .envs(variables.iter().copied());
    command.output().expect("starting gpulock").into()
}
