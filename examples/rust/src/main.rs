//! Acquires the lock of a GPU, extends its lease, and releases it.

use std::{env, error::Error, process};

use redis::{Connection, cmd};

const LOCK: &str = "gpu_lock:0";
/// Seconds until the lock becomes free if this program dies.
const LEASE: u64 = 60;

/// Releases the lock on drop, so also after `?` and after a panic.
struct Held<'a>(&'a mut Connection, &'a str);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        match cmd("GPULOCK.RELEASE").arg(LOCK).arg(self.1).query(self.0) {
            Ok(true) => println!("released {LOCK}"),
            Ok(false) => println!("{LOCK} was no longer held"), // a successor keeps its lock
            Err(error) => eprintln!(
                "failed to release {LOCK}, held until its lease expires: {error}"
            ),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut connection = redis::Client::open(env::var("REDIS_URL")?)?.get_connection()?;
    // Identifies this run, not the task: a run must not release the lock of another run.
    let owner = format!("train-{}", uuid::Uuid::new_v4());
    let mut acquire = cmd("GPULOCK.ACQUIRE");
    // UNIQUE: no other client uses this owner. If the reply is lost, the command can be
    // repeated, and returns the same token if the lock was already granted.
    acquire.arg(LOCK).arg(&owner).arg("EX").arg(LEASE).arg("UNIQUE");
    let Some(token) = acquire.query::<Option<u64>>(&mut connection)? else {
        // The lock is an ordinary key whose value is the owner.
        let holder: Option<String> = cmd("GET").arg(LOCK).query(&mut connection)?;
        println!("{LOCK} is held by {}", holder.as_deref().unwrap_or("no client now"));
        process::exit(1);
    };
    let held = Held(&mut connection, &owner);
    // The token rises with every grant. A store for the results can reject lower tokens:
    // they come from holders that were paused past their lease.
    println!("acquired {LOCK}, fencing token {token}");
    // ... the first half of the work ...
    let mut extend = cmd("GPULOCK.EXTEND");
    extend.arg(LOCK).arg(&owner).arg("EX").arg(LEASE);
    if extend.query::<Option<u64>>(held.0)?.is_none() {
        return Err(format!("lost {LOCK}: its lease expired").into());
    }
    println!("extended {LOCK} to {LEASE} seconds from now");
    // ... the second half ...
    Ok(())
}
