//! Other clients use plain commands on the keys of locks. Only the modified keys are
//! exempt.

use gpulock_testkit::Value;

use super::{Fault, FaultContext};
use crate::history::Lock;

/// A plain command.
pub(super) struct PlainCommand {
    name: &'static str,
    run: fn(&mut FaultContext) -> Result<bool, String>,
}

/// All plain commands.
pub(super) static ALL: [PlainCommand; 12] = [
    PlainCommand { name: "del", run: del },
    PlainCommand { name: "set", run: set },
    PlainCommand { name: "set-nx", run: set_nx },
    PlainCommand { name: "expire", run: expire },
    PlainCommand { name: "persist", run: persist },
    PlainCommand { name: "rename", run: rename },
    PlainCommand { name: "restore", run: restore },
    PlainCommand { name: "copy", run: copy },
    PlainCommand { name: "move", run: move_key },
    PlainCommand { name: "other-type", run: other_type },
    PlainCommand { name: "flushall", run: flush },
    PlainCommand { name: "swapdb", run: swap },
];

impl Fault for PlainCommand {
    fn name(&self) -> &'static str {
        self.name
    }

    fn weight(&self) -> u64 {
        match self.name {
            "flushall" | "swapdb" => 2,
            _ => 8,
        }
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        (self.run)(context)
    }
}

/// Selects the database of a random lock, and returns its key.
fn select_random_lock(context: &mut FaultContext) -> Result<(Lock, String), String> {
    let lock = context.random_lock();
    context.expect_ok(&format!("SELECT {}", lock.0))?;
    Ok((lock, lock.key()))
}

/// Sends a command that modifies one lock; returns whether it had an effect.
fn send(context: &mut FaultContext, lock: Lock, line: &str) -> Result<bool, String> {
    let by = line.split(' ').next().unwrap_or_default();
    let reply = context.modify(by, Some(vec![lock]), |context| context.send(line));
    match reply {
        Value::Error(error) if error.starts_with("ERR no such key") => Ok(false),
        Value::Error(error) => Err(format!("{line}: {error}")),
        Value::Int(0) | Value::Null => Ok(false),
        _ => Ok(true),
    }
}

fn del(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    let how = if context.rng.bool() { "DEL" } else { "UNLINK" };
    send(context, lock, &format!("{how} {key}"))
}

fn set(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    let (owner, ms) = (context.new_owner(), context.rng.u64(5..=300));
    send(context, lock, &format!("SET {key} {owner} PX {ms}"))
}

/// An old client, which can only get a free lock.
fn set_nx(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    let (owner, ms) = (context.new_owner(), context.rng.u64(5..=100));
    send(context, lock, &format!("SET {key} {owner} NX PX {ms}"))
}

fn expire(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    let ms = context.rng.u64(0..=300);
    send(context, lock, &format!("PEXPIRE {key} {ms}"))
}

/// For a moment a lock has no lease.
fn persist(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    context.modify("PERSIST", Some(vec![lock]), |context| {
        let reply = context.send(&format!("PERSIST {key}"));
        context.sleep_between(1, 20);
        context.send(&format!("PEXPIRE {key} 200"));
        Ok(reply == 1)
    })
}

fn rename(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    let other = Lock(lock.0, context.random_lock().1);
    let both = Some(vec![lock, other]);
    let reply = context.modify("RENAME", both, |context| {
        context.send(&format!("RENAME {key} {}", other.key()))
    });
    Ok(reply == "OK")
}

/// Restores an earlier state of a lock.
fn restore(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    let Value::Bulk(dump) = context.send(&format!("DUMP {key}")) else {
        return Ok(false);
    };
    context.sleep_between(1, 20);
    let reply = context.modify("RESTORE", Some(vec![lock]), |context| {
        context.send_args(&[b"RESTORE", key.as_bytes(), b"150", &dump, b"REPLACE"])
    });
    match reply {
        reply if reply == "OK" => Ok(true),
        reply => Err(format!("RESTORE: {reply:?}")),
    }
}

fn copy(context: &mut FaultContext) -> Result<bool, String> {
    let (_, key) = select_random_lock(context)?;
    let other = context.random_lock();
    let line = format!("COPY {key} {} DB {} REPLACE", other.key(), other.0);
    let reply = context.modify("COPY", Some(vec![other]), |context| context.send(&line));
    Ok(reply == 1)
}

fn move_key(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    let other = Lock(1 - lock.0, lock.1);
    let reply = context.modify("MOVE", Some(vec![lock, other]), |context| {
        context.send(&format!("MOVE {key} {}", other.0))
    });
    Ok(reply == 1)
}

/// For a moment the key has another type.
fn other_type(context: &mut FaultContext) -> Result<bool, String> {
    let (lock, key) = select_random_lock(context)?;
    context.modify("LPUSH", Some(vec![lock]), |context| {
        context.expect_error("WRONGTYPE ", |context| {
            context.expect_ok("MULTI")?;
            context.send(&format!("DEL {key}"));
            context.send(&format!("LPUSH {key} x"));
            context.send("EXEC");
            context.sleep_between(1, 20);
            context.send(&format!("DEL {key}"));
            Ok(true)
        })
    })
}

fn flush(context: &mut FaultContext) -> Result<bool, String> {
    let how = *context
        .rng
        .choice(&["FLUSHALL", "FLUSHALL ASYNC", "FLUSHDB"])
        .unwrap_or(&"FLUSHALL");
    context.modify(how, None, |context| context.expect_ok(how)).map(|()| true)
}

fn swap(context: &mut FaultContext) -> Result<bool, String> {
    context
        .modify("SWAPDB", None, |context| context.expect_ok("SWAPDB 0 1"))
        .map(|()| true)
}
