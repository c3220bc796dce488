//! Reading a command's arguments: whatever the bytes, no panic; what is refused says why in
//! one clean line; and what is taken keeps the limits of the contract, and is read the same
//! again when it is written out in the plainest form.
#![no_main]

use gpulock_core::CommandError;
use gpulock_core::request::{
    self, Acquire, AcquireAny, Extend, ForceRelease, List, Log, Release,
};
use libfuzzer_sys::fuzz_target;

const MOST: u64 = (1 << 53) - 1;

/// Words are parted by this byte, so that the fuzzer finds it easy to add and drop one.
const SEPARATOR: u8 = b' ';

fuzz_target!(|line: (u8, &[u8])| {
    let (command, line) = line;
    // No words at all can be had as well.
    let words: Vec<&[u8]> = match line {
        [] => Vec::new(),
        line => line.split(|byte| *byte == SEPARATOR).collect(),
    };
    let args = || words.iter().copied();
    match command % 8 {
        0 => taken(Acquire::parse(args()), acquire),
        1 => taken(AcquireAny::parse(args()), acquire_any),
        2 => taken(Release::parse(args()), release),
        3 => taken(Extend::parse(args()), extend),
        4 => taken(ForceRelease::parse(args()), force_release),
        5 => taken(List::parse(args()), list),
        6 => taken(request::stats(args()), stats),
        _ => taken(request::log(args()), log),
    }
});

/// Looks at a request that was taken, and at the words of a refusal.
fn taken<T>(parsed: Result<T, CommandError>, look: impl Fn(T)) {
    match parsed {
        Ok(request) => look(request),
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("ERR "), "{said}");
            assert!(!said.contains(['\r', '\n', '\0']), "{said:?}");
        }
    }
}

fn acquire(asked: Acquire<'_>) {
    is_owner(asked.owner);
    let mut plain = vec![asked.owner.to_vec()];
    plain.extend(options_of(&asked));
    assert_eq!(Acquire::parse(slices(&plain)), Ok(asked));
}

fn acquire_any(asked: AcquireAny<'_>) {
    is_owner(asked.how.owner);
    assert!((1..=1024).contains(&asked.keys.len()));
    assert!((1..=asked.keys.len()).contains(&asked.count));
    for (position, key) in asked.keys.iter().enumerate() {
        assert!(!asked.keys[..position].contains(key), "a key twice");
    }
    let mut plain = vec![number(asked.keys.len() as u64)];
    plain.extend(asked.keys.iter().map(|key| key.to_vec()));
    plain.push(asked.how.owner.to_vec());
    plain.extend(options_of(&asked.how));
    plain.extend([b"COUNT".to_vec(), number(asked.count as u64)]);
    assert_eq!(AcquireAny::parse(slices(&plain)), Ok(asked));
}

fn release(asked: Release<'_>) {
    is_owner(asked.owner);
    is_token(asked.token);
    assert!(asked.reason.len() <= 64);
    let mut plain = vec![asked.owner.to_vec()];
    plain.extend(option("TOKEN", asked.token));
    plain.extend([b"REASON".to_vec(), asked.reason.to_vec()]);
    assert_eq!(Release::parse(slices(&plain)), Ok(asked));
}

fn extend(asked: Extend<'_>) {
    is_owner(asked.owner);
    is_token(asked.token);
    is_lease(asked.lease_ms);
    let mut plain = vec![asked.owner.to_vec()];
    plain.extend(option("PX", asked.lease_ms));
    plain.extend(option("TOKEN", asked.token));
    assert_eq!(Extend::parse(slices(&plain)), Ok(asked));
}

fn force_release(asked: ForceRelease<'_>) {
    asked.owner.into_iter().for_each(is_owner);
    is_token(asked.token);
    assert!(asked.reason.len() <= 64);
    let owner = asked.owner.map(|owner| [b"OWNER".to_vec(), owner.to_vec()]);
    let mut plain: Vec<Vec<u8>> = owner.into_iter().flatten().collect();
    plain.extend(option("TOKEN", asked.token));
    plain.extend([b"REASON".to_vec(), asked.reason.to_vec()]);
    assert_eq!(ForceRelease::parse(slices(&plain)), Ok(asked));
}

fn list(asked: List<'_>) {
    assert!(asked.limit <= MOST);
    let pattern = asked.pattern.map(|pattern| [b"MATCH".to_vec(), pattern.to_vec()]);
    let mut plain: Vec<Vec<u8>> = pattern.into_iter().flatten().collect();
    plain.extend(option("LIMIT", Some(asked.limit)));
    assert_eq!(List::parse(slices(&plain)), Ok(asked));
}

fn stats(asked: request::Stats<'_>) {
    let key = asked.map(|key| [b"KEY".to_vec(), key.to_vec()]);
    let plain: Vec<Vec<u8>> = key.into_iter().flatten().collect();
    assert_eq!(request::stats(slices(&plain)), Ok(asked));
}

fn log(asked: Log) {
    let plain = match asked {
        Log::Show(count) => count.map(number).into_iter().collect(),
        Log::Reset => vec![b"RESET".to_vec()],
    };
    assert_eq!(request::log(slices(&plain)), Ok(asked));
}

fn is_owner(owner: &[u8]) {
    assert!((1..=1024).contains(&owner.len()));
}

fn is_token(token: Option<u64>) {
    assert!(token.is_none_or(|token| (1..=MOST).contains(&token)));
}

fn is_lease(lease_ms: Option<u64>) {
    assert!(lease_ms.is_none_or(|ms| (1..=MOST).contains(&ms)));
}

/// The options of ACQUIRE, each with its number in ms.
fn options_of(asked: &Acquire<'_>) -> Vec<Vec<u8>> {
    is_lease(asked.lease_ms);
    let is_time = |ms: Option<u64>| assert!(ms.is_none_or(|ms| ms <= MOST));
    is_time(asked.block_ms);
    is_time(asked.session_grace_ms);
    let mut plain = option("PX", asked.lease_ms);
    plain.extend(option("BLOCK", asked.block_ms));
    plain.extend(asked.unique.then(|| b"UNIQUE".to_vec()));
    plain.extend(asked.session_grace_ms.map(|_| b"SESSION".to_vec()));
    plain.extend(option("GRACE", asked.session_grace_ms));
    plain
}

fn option(word: &str, value: Option<u64>) -> Vec<Vec<u8>> {
    value.map(|value| vec![word.into(), number(value)]).unwrap_or_default()
}

fn number(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn slices(words: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    words.iter().map(Vec::as_slice)
}
