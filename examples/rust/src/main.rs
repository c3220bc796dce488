//! Takes the lock of a GPU, works, asks for more time, and gives the lock back.

use std::{env, error::Error, process};

use redis::{Connection, cmd};

const LOCK: &str = "gpu_lock:0";
/// Seconds after which the lock is free again should this program die.
const LEASE: u64 = 60;

/// Rust's `finally`: gives the lock back on every way out, also after `?` and a panic.
struct Held<'a>(&'a mut Connection, &'a str);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        match cmd("GPULOCK.RELEASE").arg(LOCK).arg(self.1).query(self.0) {
            Ok(true) => println!("gave {LOCK} back"),
            Ok(false) => println!("{LOCK} was no longer ours"), // a successor keeps it
            Err(error) => eprintln!("{LOCK} stays ours until its lease ends: {error}"),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut connection = redis::Client::open(env::var("REDIS_URL")?)?.get_connection()?;
    // Names this run, not the task: two runs must not give back each other's lock.
    let owner = format!("train-{}", uuid::Uuid::new_v4());
    let mut acquire = cmd("GPULOCK.ACQUIRE");
    // UNIQUE says that nobody else uses this owner: should the answer get lost, the same
    // command may be sent again, and gets the lock that we have already.
    acquire.arg(LOCK).arg(&owner).arg("EX").arg(LEASE).arg("UNIQUE");
    let Some(token) = acquire.query::<Option<u64>>(&mut connection)? else {
        // The lock is an ordinary key whose value is the owner.
        let holder: Option<String> = cmd("GET").arg(LOCK).query(&mut connection)?;
        println!("{LOCK} is held by {}", holder.as_deref().unwrap_or("nobody any more"));
        process::exit(1);
    };
    let held = Held(&mut connection, &owner);
    // The token rises with every grant. Whoever stores our results can refuse a lower one:
    // it comes from a holder that was paused past its lease.
    println!("{LOCK} is ours, fencing token {token}");
    // ... the first half of the work ...
    let mut extend = cmd("GPULOCK.EXTEND");
    extend.arg(LOCK).arg(&owner).arg("EX").arg(LEASE);
    if extend.query::<Option<u64>>(held.0)?.is_none() {
        return Err(format!("lost {LOCK}, its lease was over: stop working").into());
    }
    println!("extended {LOCK} to {LEASE} seconds from now");
    // ... the second half ...
    Ok(())
}
