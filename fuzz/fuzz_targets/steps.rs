//! The rules of locking. Each input is a scenario of `crates/model`: a list of steps of clients,
//! the server and the clock. The scenario checks the laws after each step.
#![no_main]

use gpulock_core::state::settings::Events;
use gpulock_model::call::{Call, SHARES};
use gpulock_model::groups::Groups;
use gpulock_model::memory_keys::KEYS;
use gpulock_model::scenario::{OWNER_COUNT, Scenario, Step};
use gpulock_model::world::{CLIENTS, Writes};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// The maximum number of steps. Longer scenarios find nothing more.
const STEPS: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Unstructured::new(bytes);
    // The end of the bytes is no error: every later choice is the first one.
    let _ = run(&mut bytes);
});

fn run(bytes: &mut Unstructured<'_>) -> Result<()> {
    let events = *bytes.choose(&[Events::Off, Events::Release, Events::All])?;
    let mut scenario = Scenario::begin(events);
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        scenario.take(step(bytes)?);
    }
    scenario.end();
    Ok(())
}

/// A step. ACQUIRE and ACQUIREANY are the most frequent ones.
fn step(bytes: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match bytes.int_in_range(0..=40)? {
        0..=8 => Step::Acquire(call(bytes)?),
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
            owner: optional(bytes, owner)?,
            right_token: bytes.arbitrary()?,
        },
        20 => Step::Inspect { key: key(bytes)? },
        21 => Step::ExternalSet {
            key: key(bytes)?,
            value: bytes.int_in_range(0..=4)?,
            ttl_ms: optional(bytes, ttl)?,
        },
        22 => Step::ExternalSetOther { key: key(bytes)? },
        23 => Step::ExternalDelete { key: key(bytes)? },
        24 => Step::ExternalExpire { key: key(bytes)?, ttl_ms: optional(bytes, ttl)? },
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
        36 => Step::PostponeDelete { key: key(bytes)? },
        37..=38 => Step::GiveNotice {
            key: key(bytes)?,
            owner: optional(bytes, owner)?,
            right_token: bytes.arbitrary()?,
            after_ms: bytes.int_in_range(1..=299)?,
        },
        39 => Step::SetMaxWaiters { waiters: bytes.int_in_range(0..=5)? },
        _ => Step::Demote,
    })
}

fn call(bytes: &mut Unstructured<'_>) -> Result<Call> {
    let (keys, count, groups) = keys(bytes)?;
    let unique = bytes.arbitrary()?;
    let keep_ms = optional(bytes, |bytes| bytes.int_in_range(0..=199))?;
    Ok(Call {
        client: client(bytes)?,
        keys,
        count,
        groups,
        owner: owner(bytes)?,
        lease_ms: optional(bytes, ttl)?,
        unique,
        // KEEP requires UNIQUE.
        keep_ms: keep_ms.filter(|_| unique),
        priority: *bytes.choose(&[0, 0, 0, -1, 1, 2])?,
        share: optional(bytes, |bytes| bytes.choose_index(SHARES.len()))?,
        block_ms: optional(bytes, |bytes| bytes.int_in_range(0..=299))?,
        session_grace_ms: optional(bytes, |bytes| bytes.int_in_range(0..=99))?,
        has_memory: !bytes.ratio(1, 20)?,
    })
}

/// The key of ACQUIRE, or the keys, COUNT and GROUPS of ACQUIREANY.
type Target = (Vec<usize>, Option<usize>, Option<Groups>);

/// Keys in any order.
fn keys(bytes: &mut Unstructured<'_>) -> Result<Target> {
    if bytes.arbitrary()? {
        return Ok((vec![key(bytes)?], None, None));
    }
    let mut all: Vec<usize> = (0..KEYS.len()).collect();
    let size = bytes.int_in_range(1..=all.len())?;
    let set = (0..size).map(|_| {
        let at = bytes.choose_index(all.len())?;
        Ok(all.swap_remove(at))
    });
    let set = set.collect::<Result<Vec<_>>>()?;
    let groups = optional(bytes, |bytes| groups(bytes, size))?;
    let count_max = groups.as_ref().map_or(size, |(_, count_max)| *count_max);
    let count = bytes.int_in_range(1..=count_max)?;
    Ok((set, Some(count), groups.map(|(groups, _)| groups)))
}

/// Groups of this number of keys, and the largest COUNT that they allow.
fn groups(bytes: &mut Unstructured<'_>, keys: usize) -> Result<(Groups, usize)> {
    let (mut sizes, mut left) = (Vec::new(), keys);
    while left > 0 {
        let size = bytes.int_in_range(1..=left)?;
        sizes.push(size);
        left -= size;
    }
    let wanted = bytes.int_in_range(1..=sizes.len())?;
    let mut largest = sizes.clone();
    largest.sort_unstable_by(|one, other| other.cmp(one));
    Ok((Groups { wanted, sizes }, largest[wanted - 1]))
}

fn optional<'b, T>(
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
    bytes.choose_index(OWNER_COUNT)
}

fn ttl(bytes: &mut Unstructured<'_>) -> Result<u64> {
    bytes.int_in_range(1..=299)
}
