//! How a call is said to the server, and what its answer means.

use gpulock_testkit::Value;

use crate::history::{Answer, Ask, How, Lock, Owner, Shown};

/// The words of a call.
pub(crate) fn words(ask: &Ask) -> Vec<String> {
    let mut words = Vec::with_capacity(12);
    let mut say = |word: &str| words.push(word.to_owned());
    match ask {
        Ask::Acquire { lock, owner, how } => {
            say("GPULOCK.ACQUIRE");
            say(&lock.key());
            say(&owner.to_string());
            say_how(how, &mut say);
        }
        Ask::AcquireAny { locks, count, owner, how } => {
            say("GPULOCK.ACQUIREANY");
            say(&locks.len().to_string());
            locks.iter().for_each(|lock| say(&lock.key()));
            say(&owner.to_string());
            say("COUNT");
            say(&count.to_string());
            say_how(how, &mut say);
        }
        Ask::Release { lock, owner, token } => {
            say("GPULOCK.RELEASE");
            say(&lock.key());
            say(&owner.to_string());
            say_option("TOKEN", *token, &mut say);
        }
        Ask::Extend { lock, owner, lease_ms, token } => {
            say("GPULOCK.EXTEND");
            say(&lock.key());
            say(&owner.to_string());
            say_option("PX", Some(*lease_ms), &mut say);
            say_option("TOKEN", *token, &mut say);
        }
        Ask::Force { lock, owner, token } => {
            say("GPULOCK.FORCERELEASE");
            say(&lock.key());
            say_option("OWNER", *owner, &mut say);
            say_option("TOKEN", *token, &mut say);
        }
        Ask::Inspect { lock } => {
            say("GPULOCK.INSPECT");
            say(&lock.key());
        }
    }
    words
}

fn say_how(how: &How, say: &mut impl FnMut(&str)) {
    say_option("PX", Some(how.lease_ms), say);
    say_option("BLOCK", how.block_ms, say);
    if how.unique {
        say("UNIQUE");
    }
    if how.grace_ms.is_some() {
        say("SESSION");
        say_option("GRACE", how.grace_ms, say);
    }
}

fn say_option(name: &str, value: Option<impl ToString>, say: &mut impl FnMut(&str)) {
    if let Some(value) = value {
        say(name);
        say(&value.to_string());
    }
}

/// What an answer means. One that makes no sense is told like an error, which nothing
/// excuses.
pub(crate) fn meaning(ask: &Ask, value: &Value) -> Answer {
    understood(ask, value)
        .unwrap_or_else(|| Answer::Refused(format!("makes no sense: {value:?}")))
}

fn understood(ask: &Ask, value: &Value) -> Option<Answer> {
    match (ask, value) {
        (_, Value::Error(text)) => Some(Answer::Refused(text.clone())),
        (Ask::Release { .. }, Value::Int(0 | 1)) => Some(Answer::Released(*value == 1)),
        (Ask::Acquire { .. } | Ask::Extend { .. }, Value::Int(token)) => {
            Some(Answer::Token(u64::try_from(*token).ok()?))
        }
        (Ask::AcquireAny { .. }, Value::Array(pairs)) => {
            let db = ask.locks().first()?.0;
            let pairs = pairs.iter().map(|pair| granted(db, pair));
            Some(Answer::Tokens(pairs.collect::<Option<_>>()?))
        }
        (Ask::Force { .. }, Value::Bulk(_)) => Some(Answer::Taken(value.text())),
        (Ask::Inspect { .. }, Value::Array(_) | Value::Map(_)) => {
            Some(Answer::Shown(shown(value)?))
        }
        (Ask::Release { .. }, _) => None,
        (_, null) if null.is_null() => Some(Answer::Null),
        _ => None,
    }
}

fn granted(db: u8, pair: &Value) -> Option<(Lock, u64)> {
    let Value::Array(pair) = pair else { return None };
    let [key @ Value::Bulk(_), Value::Int(token)] = &pair[..] else { return None };
    Some((Lock::of_key(db, &key.text())?, u64::try_from(*token).ok()?))
}

fn shown(value: &Value) -> Option<Shown> {
    let owner_of = |fields: &Value| match field(fields, "owner")? {
        Value::Bulk(bytes) => std::str::from_utf8(&bytes).ok()?.parse::<Owner>().ok(),
        _ => None,
    };
    let token = match field(value, "token")? {
        Value::Int(token) => Some(u64::try_from(token).ok()?),
        _ => None,
    };
    let Value::Array(places) = field(value, "waiters")? else { return None };
    let present = |place: &Value| match field(place, "client") {
        Some(Value::Int(_)) => owner_of(place),
        _ => None,
    };
    let line = places.iter().filter_map(present).collect();
    Some(Shown { owner: owner_of(value), token, line })
}

/// A field of a map, as RESP2 or RESP3 has it.
fn field(of: &Value, name: &str) -> Option<Value> {
    match of {
        Value::Array(fields) => {
            let at = fields.iter().step_by(2).position(|key| *key == name)?;
            fields.get(at * 2 + 1).cloned()
        }
        Value::Map(fields) => {
            let field = fields.iter().find(|(key, _)| *key == name);
            field.map(|(_, value)| value.clone())
        }
        _ => None,
    }
}
