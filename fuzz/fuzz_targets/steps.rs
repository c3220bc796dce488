//! The rules themselves: each input is a day in the life of a server, a list of steps that
//! clients, outsiders and the clock take in the world of `crates/model`. What must hold
//! after each step is said there.
#![no_main]

use gpulock_core::state::settings::Events;
use gpulock_model::call::Call;
use gpulock_model::scenario::{Scenario, NAMES, Step};
use gpulock_model::keyspace::KEYS;
use gpulock_model::world::{CLIENTS, Writes};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// A longer day shows nothing that these do not.
const STEPS: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Unstructured::new(bytes);
    // Bytes that have come to their end give no error, only the first of each choice.
    let _ = day(&mut bytes);
});

fn day(bytes: &mut Unstructured<'_>) -> Result<()> {
    let events = *bytes.choose(&[Events::Off, Events::Release, Events::All])?;
    let mut day = Scenario::begin(events);
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        day.take(step(bytes)?);
    }
    day.end();
    Ok(())
}

/// The steps that there are, ACQUIRE most often.
fn step(bytes: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match bytes.int_in_range(0..=36)? {
        0..=8 => Step::Acquire(request(bytes)?),
        9..=10 => Step::DropClient { client: client(bytes)? },
        11 => Step::Unblock { client: client(bytes)?, with_error: bytes.arbitrary()? },
        12..=14 => Step::Tick,
        15..=17 => Step::Release {
            key: key(bytes)?,
            owner: owner(bytes)?,
            right_token: bytes.arbitrary()?,
        },
        18 => Step::Extend {
            key: key(bytes)?,
            owner: owner(bytes)?,
            lease_ms: bytes.int_in_range(1..=299)?,
        },
        19 => Step::ForceRelease {
            key: key(bytes)?,
            owner: perhaps(bytes, owner)?,
            right_token: bytes.arbitrary()?,
        },
        20 => Step::Inspect { key: key(bytes)? },
        21 => Step::ExternalSet {
            key: key(bytes)?,
            value: bytes.int_in_range(0..=4)?,
            ttl_ms: perhaps(bytes, ttl)?,
        },
        22 => Step::ExternalSetOther { key: key(bytes)? },
        23 => Step::ExternalDelete { key: key(bytes)? },
        24 => Step::ExternalExpire { key: key(bytes)?, ttl_ms: perhaps(bytes, ttl)? },
        25 => Step::Evict { key: key(bytes)? },
        26 => Step::AdvanceClock { ms: bytes.int_in_range(0..=199)? },
        27 => Step::AdvanceClock { ms: bytes.int_in_range(-499..=0)? },
        28 => Step::Cron,
        29 => Step::ResetStats,
        30 => Step::SetTrackedKeys { keys: bytes.int_in_range(0..=3)? },
        31 => Step::List,
        32 => Step::EndTurn,
        33 => Step::Writes {
            writes: *bytes.choose(&[
                Writes::Paused,
                Writes::Refused,
                Writes::WithinCommand,
            ])?,
        },
        34..=35 => Step::Writes { writes: Writes::Accepted },
        _ => Step::Demote,
    })
}

fn request(bytes: &mut Unstructured<'_>) -> Result<Call> {
    let (keys, count) = keys(bytes)?;
    Ok(Call {
        client: client(bytes)?,
        keys,
        count,
        owner: owner(bytes)?,
        lease_ms: perhaps(bytes, ttl)?,
        unique: bytes.arbitrary()?,
        block_ms: perhaps(bytes, |bytes| bytes.int_in_range(0..=299))?,
        session_grace_ms: perhaps(bytes, |bytes| bytes.int_in_range(0..=99))?,
        has_memory: !bytes.ratio(1, 20)?,
    })
}

/// One lock, or some of a set, in any order.
fn keys(bytes: &mut Unstructured<'_>) -> Result<(Vec<usize>, Option<usize>)> {
    if bytes.arbitrary()? {
        return Ok((vec![key(bytes)?], None));
    }
    let mut all: Vec<usize> = (0..KEYS.len()).collect();
    let size = bytes.int_in_range(1..=all.len())?;
    let set = (0..size).map(|_| {
        let at = bytes.choose_index(all.len())?;
        Ok(all.swap_remove(at))
    });
    let set = set.collect::<Result<Vec<_>>>()?;
    let count = bytes.int_in_range(1..=size)?;
    Ok((set, Some(count)))
}

fn perhaps<'b, T>(
    bytes: &mut Unstructured<'b>,
    some: impl Fn(&mut Unstructured<'b>) -> Result<T>,
) -> Result<Option<T>> {
    if bytes.arbitrary()? { some(bytes).map(Some) } else { Ok(None) }
}

fn client(bytes: &mut Unstructured<'_>) -> Result<usize> {
    bytes.choose_index(CLIENTS)
}

fn key(bytes: &mut Unstructured<'_>) -> Result<usize> {
    bytes.choose_index(KEYS.len())
}

fn owner(bytes: &mut Unstructured<'_>) -> Result<usize> {
    bytes.choose_index(NAMES)
}

fn ttl(bytes: &mut Unstructured<'_>) -> Result<u64> {
    bytes.int_in_range(1..=299)
}
