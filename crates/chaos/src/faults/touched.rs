//! Other clients use plain commands on the keys of locks. What they touch they excuse; all
//! else goes on.

use gpulock_testkit::Value;

use super::{Fault, Site};
use crate::history::Lock;

/// A plain command.
pub(super) struct Touch {
    name: &'static str,
    does: fn(&mut Site) -> Result<bool, String>,
}

/// Each of them.
pub(super) static ALL: [Touch; 12] = [
    Touch { name: "del", does: del },
    Touch { name: "set", does: set },
    Touch { name: "set-nx", does: set_nx },
    Touch { name: "expire", does: expire },
    Touch { name: "persist", does: persist },
    Touch { name: "rename", does: rename },
    Touch { name: "restore", does: restore },
    Touch { name: "copy", does: copy },
    Touch { name: "move", does: move_over },
    Touch { name: "other-type", does: other_type },
    Touch { name: "flushall", does: flush },
    Touch { name: "swapdb", does: swap },
];

impl Fault for Touch {
    fn name(&self) -> &'static str {
        self.name
    }

    fn weight(&self) -> u64 {
        match self.name {
            "flushall" | "swapdb" => 2,
            _ => 8,
        }
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        (self.does)(site)
    }
}

/// Goes to the database of some lock, and answers its key.
fn some_key(site: &mut Site) -> Result<(Lock, String), String> {
    let lock = site.some_lock();
    site.must(&format!("SELECT {}", lock.0))?;
    Ok((lock, lock.key()))
}

/// Says one command about one lock; whether it did something.
fn say(site: &mut Site, lock: Lock, line: &str) -> Result<bool, String> {
    let by = line.split(' ').next().unwrap_or_default();
    let answer = site.touch(by, Some(vec![lock]), |site| site.say(line));
    match answer {
        Value::Error(error) if error.starts_with("ERR no such key") => Ok(false),
        Value::Error(error) => Err(format!("{line}: {error}")),
        Value::Int(0) | Value::Null => Ok(false),
        _ => Ok(true),
    }
}

fn del(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    let how = if site.dice.percent(50) { "DEL" } else { "UNLINK" };
    say(site, lock, &format!("{how} {key}"))
}

fn set(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    let (owner, ms) = (site.outsider(), site.dice.between(5, 300));
    say(site, lock, &format!("SET {key} {owner} PX {ms}"))
}

/// A client of the old kind, who may get the lock only while it is free.
fn set_nx(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    let (owner, ms) = (site.outsider(), site.dice.between(5, 100));
    say(site, lock, &format!("SET {key} {owner} NX PX {ms}"))
}

fn expire(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    let ms = site.dice.between(0, 300);
    say(site, lock, &format!("PEXPIRE {key} {ms}"))
}

/// For a moment a lock has no lease.
fn persist(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    site.touch("PERSIST", Some(vec![lock]), |site| {
        let answer = site.say(&format!("PERSIST {key}"));
        site.last(1, 20);
        site.say(&format!("PEXPIRE {key} 200"));
        Ok(answer == 1)
    })
}

fn rename(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    let other = Lock(lock.0, site.some_lock().1);
    let both = Some(vec![lock, other]);
    let answer = site
        .touch("RENAME", both, |site| site.say(&format!("RENAME {key} {}", other.key())));
    Ok(answer == "OK")
}

/// What a lock was a moment ago comes back.
fn restore(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    let Value::Bulk(dump) = site.say(&format!("DUMP {key}")) else { return Ok(false) };
    site.last(1, 20);
    let answer = site.touch("RESTORE", Some(vec![lock]), |site| {
        site.say_bytes(&[b"RESTORE", key.as_bytes(), b"150", &dump, b"REPLACE"])
    });
    match answer {
        answer if answer == "OK" => Ok(true),
        answer => Err(format!("RESTORE: {answer:?}")),
    }
}

fn copy(site: &mut Site) -> Result<bool, String> {
    let (_, key) = some_key(site)?;
    let other = site.some_lock();
    let line = format!("COPY {key} {} DB {} REPLACE", other.key(), other.0);
    let answer = site.touch("COPY", Some(vec![other]), |site| site.say(&line));
    Ok(answer == 1)
}

fn move_over(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    let other = Lock(1 - lock.0, lock.1);
    let answer = site.touch("MOVE", Some(vec![lock, other]), |site| {
        site.say(&format!("MOVE {key} {}", other.0))
    });
    Ok(answer == 1)
}

/// For a moment something stands under the key that is no lock.
fn other_type(site: &mut Site) -> Result<bool, String> {
    let (lock, key) = some_key(site)?;
    site.touch("LPUSH", Some(vec![lock]), |site| {
        site.refuse("WRONGTYPE ", |site| {
            site.must("MULTI")?;
            site.say(&format!("DEL {key}"));
            site.say(&format!("LPUSH {key} x"));
            site.say("EXEC");
            site.last(1, 20);
            site.say(&format!("DEL {key}"));
            Ok(true)
        })
    })
}

fn flush(site: &mut Site) -> Result<bool, String> {
    let how = *site
        .dice
        .pick(&["FLUSHALL", "FLUSHALL ASYNC", "FLUSHDB"])
        .unwrap_or(&"FLUSHALL");
    site.touch(how, None, |site| site.must(how)).map(|()| true)
}

fn swap(site: &mut Site) -> Result<bool, String> {
    site.touch("SWAPDB", None, |site| site.must("SWAPDB 0 1")).map(|()| true)
}
