//! A process that acquires a lock and holds it until it is killed. The benchmark runs its
//! own program for it (`gpulock-bench hold`), because only a separate process can be killed.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use redis::Client;

/// Printed by the process when it holds the lock.
const ACQUIRED: &str = "acquired";

/// The parent's handle of the process. Dropping it kills the process.
pub(crate) struct Holder(Child);

impl Holder {
    /// Starts a process that acquires a lock with the command `acquire`, and returns when
    /// it holds the lock.
    pub(crate) fn start(port: u16, acquire: &[&str]) -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .args(["hold", &port.to_string()])
            .args(acquire)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut holder = Self(child);
        let output = holder.0.stdout.take().context("stdout is not piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim_end() == ACQUIRED, "the holder did not get the lock");
        Ok(holder)
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        Ok(self.0.kill()?)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Fails if the process was killed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs in the child: acquires the lock and waits. The child also exits when the parent
/// does, because its stdin is then closed.
pub(crate) fn hold(port: u16, acquire: &[String]) -> Result<()> {
    let mut connection = Client::open(("127.0.0.1", port))?.get_connection()?;
    let (name, arguments) = acquire.split_first().context("missing acquire command")?;
    let _token: u64 = redis::cmd(name).arg(arguments).query(&mut connection)?;
    println!("{ACQUIRED}");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
