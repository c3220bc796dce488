//! A process that takes a lock and holds it until it is killed: the bench starts itself
//! again for it (`gpulock-bench hold`), since only a process of its own can die.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use redis::Client;

/// What the process says when it has the lock.
const TAKEN: &str = "taken";

/// The bench's side of such a process. Dropping kills it.
pub(crate) struct Holder(Child);

impl Holder {
    /// Starts a process that takes a lock with the command `take`, and returns when it
    /// has it.
    pub(crate) fn start(port: u16, take: &[&str]) -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .args(["hold", &port.to_string()])
            .args(take)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut holder = Self(child);
        let output = holder.0.stdout.take().context("a holder without output")?;
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said.trim_end() == TAKEN, "the holder did not get the lock");
        Ok(holder)
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        Ok(self.0.kill()?)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // That it was killed already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process's side: takes the lock and waits for its end. When the bench itself ends,
/// so does its input, and the process with it.
pub(crate) fn hold(port: u16, take: &[String]) -> Result<()> {
    let mut connection = Client::open(("127.0.0.1", port))?.get_connection()?;
    let (name, arguments) = take.split_first().context("no command to take it with")?;
    let _token: u64 = redis::cmd(name).arg(arguments).query(&mut connection)?;
    println!("{TAKEN}");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
