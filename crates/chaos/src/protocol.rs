//! Encodes requests as commands, and decodes replies.

use gpulock_testkit::Value;

use crate::history::{AcquireOptions, Groups, Inspection, Lock, Owner, Reply, Request};

/// The words of a command.
pub(crate) fn command_words(request: &Request) -> Vec<String> {
    let mut words = Vec::with_capacity(12);
    let mut push = |word: &str| words.push(word.to_owned());
    match request {
        Request::Acquire { lock, owner, options } => {
            push("GPULOCK.ACQUIRE");
            push(&lock.key());
            push(&owner.to_string());
            push_options(options, &mut push);
        }
        Request::AcquireAny { locks, count, groups, near, owner, options } => {
            push("GPULOCK.ACQUIREANY");
            push(&locks.len().to_string());
            locks.iter().for_each(|lock| push(&lock.key()));
            push(&owner.to_string());
            push("COUNT");
            push(&count.to_string());
            if let Some(Groups { wanted, sizes }) = groups {
                push("GROUPS");
                let numbers = [*wanted, sizes.len()].into_iter();
                numbers.chain(sizes.clone()).for_each(|number| push(&number.to_string()));
            }
            push_option("NEAR", near.map(|tag| format!("tag{tag}")), &mut push);
            push_options(options, &mut push);
        }
        Request::Release { lock, owner, token } => {
            push("GPULOCK.RELEASE");
            push(&lock.key());
            push(&owner.to_string());
            push_option("TOKEN", *token, &mut push);
        }
        Request::Extend { lock, owner, lease_ms, token } => {
            push("GPULOCK.EXTEND");
            push(&lock.key());
            push(&owner.to_string());
            push_option("PX", Some(*lease_ms), &mut push);
            push_option("TOKEN", *token, &mut push);
        }
        Request::ForceRelease { lock, owner, token, after_ms } => {
            push("GPULOCK.FORCERELEASE");
            push(&lock.key());
            push_option("OWNER", *owner, &mut push);
            push_option("TOKEN", *token, &mut push);
            push_option("AFTER", *after_ms, &mut push);
        }
        Request::Inspect { lock } => {
            push("GPULOCK.INSPECT");
            push(&lock.key());
        }
    }
    words
}

fn push_options(options: &AcquireOptions, push: &mut impl FnMut(&str)) {
    push_option("PX", Some(options.lease_ms), push);
    push_option("BLOCK", options.block_ms, push);
    if options.unique {
        push("UNIQUE");
    }
    if options.grace_ms.is_some() {
        push("SESSION");
        push_option("GRACE", options.grace_ms, push);
    }
    push_option("KEEP", options.keep_ms, push);
    push_option("PRIORITY", Some(options.priority).filter(|it| *it != 0), push);
    push_option("SHARE", options.share.map(|share| format!("share{share}")), push);
}

fn push_option(name: &str, value: Option<impl ToString>, push: &mut impl FnMut(&str)) {
    if let Some(value) = value {
        push(name);
        push(&value.to_string());
    }
}

/// Decodes a reply. A malformed one becomes an error, which is never exempt.
pub(crate) fn parse_reply(request: &Request, value: &Value) -> Reply {
    parse(request, value)
        .unwrap_or_else(|| Reply::Error(format!("unexpected reply: {value:?}")))
}

fn parse(request: &Request, value: &Value) -> Option<Reply> {
    match (request, value) {
        (_, Value::Error(text)) => Some(Reply::Error(text.clone())),
        (Request::Release { .. }, Value::Int(0 | 1)) => {
            Some(Reply::Released(*value == 1))
        }
        (Request::Acquire { .. } | Request::Extend { .. }, Value::Int(token)) => {
            Some(Reply::Token(u64::try_from(*token).ok()?))
        }
        (Request::AcquireAny { .. }, Value::Array(pairs)) => {
            let db = request.locks().first()?.0;
            let pairs = pairs.iter().map(|pair| granted(db, pair));
            Some(Reply::Tokens(pairs.collect::<Option<_>>()?))
        }
        (Request::ForceRelease { .. }, Value::Bulk(_)) => {
            Some(Reply::ForceReleased(value.text()))
        }
        (Request::Inspect { .. }, Value::Array(_) | Value::Map(_)) => {
            Some(Reply::Inspection(inspection(value)?))
        }
        (Request::Release { .. }, _) => None,
        (_, null) if null.is_null() => Some(Reply::Null),
        _ => None,
    }
}

fn granted(db: u8, pair: &Value) -> Option<(Lock, u64)> {
    let Value::Array(pair) = pair else { return None };
    let [key @ Value::Bulk(_), Value::Int(token)] = &pair[..] else { return None };
    Some((Lock::of_key(db, &key.text())?, u64::try_from(*token).ok()?))
}

fn inspection(value: &Value) -> Option<Inspection> {
    let owner_of = |fields: &Value| match field(fields, "owner")? {
        Value::Bulk(bytes) => std::str::from_utf8(&bytes).ok()?.parse::<Owner>().ok(),
        _ => None,
    };
    let number = |name| match field(value, name)? {
        Value::Int(number) => u64::try_from(number).ok(),
        _ => None,
    };
    let Value::Array(positions) = field(value, "waiters")? else { return None };
    let connected = |position: &Value| match field(position, "client") {
        Some(Value::Int(_)) => owner_of(position),
        _ => None,
    };
    let queue = positions.iter().filter_map(connected).collect();
    Some(Inspection {
        owner: owner_of(value),
        token: number("token"),
        revoked_ms: number("revoked_ms"),
        queue,
    })
}

/// A field of a map in RESP2 or RESP3.
fn field(map: &Value, name: &str) -> Option<Value> {
    match map {
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
