//! Parsers of command arguments. No input may panic. A rejection is one line of clean text. An
//! accepted request is within the limits of the command reference, and its canonical form parses to
//! the same request.
#![no_main]

use gpulock_core::CommandError;
use gpulock_core::request::{
    self, Acquire, AcquireAny, Extend, ForceRelease, Groups, List, Log, Metrics, Release,
};
use libfuzzer_sys::fuzz_target;

/// The longest KEEP, in ms.
const KEEP_MAX_MS: u64 = 3_600_000;

/// The largest number that an option takes.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Separates the arguments. A single byte makes it easy for the fuzzer to add and remove arguments.
const SEPARATOR: u8 = b' ';

fuzz_target!(|input: (u8, &[u8])| {
    let (command, line) = input;
    // An empty line is no arguments, not one empty argument.
    let words: Vec<&[u8]> = match line {
        [] => Vec::new(),
        line => line.split(|byte| *byte == SEPARATOR).collect(),
    };
    let args = || words.iter().copied();
    match command % 9 {
        0 => check(Acquire::parse(args()), acquire),
        1 => check(AcquireAny::parse(args()), acquire_any),
        2 => check(Release::parse(args()), release),
        3 => check(Extend::parse(args()), extend),
        4 => check(ForceRelease::parse(args()), force_release),
        5 => check(List::parse(args()), list),
        6 => check(request::stats(args()), stats),
        7 => check(request::log(args()), log),
        _ => check(request::metrics(args()), metrics),
    }
});

/// Checks an accepted request, or the text of a rejection.
fn check<T>(parsed: Result<T, CommandError>, check_request: impl Fn(T)) {
    match parsed {
        Ok(request) => check_request(request),
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("ERR "), "{text}");
            assert!(!text.contains(['\r', '\n', '\0']), "{text:?}");
        }
    }
}

fn acquire(request: Acquire<'_>) {
    assert_owner(request.owner);
    let mut canonical = vec![request.owner.to_vec()];
    canonical.extend(options_of(&request));
    assert_eq!(Acquire::parse(slices(&canonical)), Ok(request));
}

fn acquire_any(request: AcquireAny<'_>) {
    assert_owner(request.how.owner);
    assert!((1..=1024).contains(&request.keys.len()));
    assert!((1..=request.keys.len()).contains(&request.count));
    let mut canonical = vec![number(request.keys.len() as u64)];
    canonical.extend(request.keys.iter().map(|key| key.to_vec()));
    canonical.push(request.how.owner.to_vec());
    canonical.extend(options_of(&request.how));
    canonical.extend([b"COUNT".to_vec(), number(request.count as u64)]);
    canonical
        .extend(request.groups.iter().flat_map(|groups| groups_of(groups, &request)));
    assert!(request.near.is_none_or(|tag| (1..=64).contains(&tag.len())));
    canonical.extend(text_option("NEAR", request.near));
    let again =
        AcquireAny::parse(slices(&canonical)).expect("the canonical form is valid");
    assert_eq!(again.keys[..], request.keys[..]);
    assert_eq!((again.count, again.groups), (request.count, request.groups));
    assert_eq!((again.near, again.how), (request.near, request.how));
}

/// GROUPS and its values. The sizes add up to the number of keys, and enough groups are
/// large enough.
fn groups_of(groups: &Groups, request: &AcquireAny<'_>) -> Vec<Vec<u8>> {
    let sizes = groups.sizes.iter().map(|size| usize::from(*size));
    assert_eq!(sizes.clone().sum::<usize>(), request.keys.len());
    let large = sizes.clone().filter(|size| *size >= request.count).count();
    assert!((1..=large).contains(&groups.wanted));
    let values = [groups.wanted, groups.sizes.len()].into_iter().chain(sizes);
    let values = values.map(|value| number(value as u64));
    std::iter::once(b"GROUPS".to_vec()).chain(values).collect()
}

fn release(request: Release<'_>) {
    assert_owner(request.owner);
    assert_token(request.token);
    assert!(request.reason.len() <= 64);
    let mut canonical = vec![request.owner.to_vec()];
    canonical.extend(option("TOKEN", request.token));
    canonical.extend([b"REASON".to_vec(), request.reason.to_vec()]);
    assert_eq!(Release::parse(slices(&canonical)), Ok(request));
}

fn extend(request: Extend<'_>) {
    assert_owner(request.owner);
    assert_token(request.token);
    assert_lease(request.lease_ms);
    let mut canonical = vec![request.owner.to_vec()];
    canonical.extend(option("PX", request.lease_ms));
    canonical.extend(option("TOKEN", request.token));
    assert_eq!(Extend::parse(slices(&canonical)), Ok(request));
}

fn force_release(request: ForceRelease<'_>) {
    request.owner.into_iter().for_each(assert_owner);
    assert_token(request.token);
    assert!(request.reason.len() <= 64);
    let owner = request.owner.map(|owner| [b"OWNER".to_vec(), owner.to_vec()]);
    let mut canonical: Vec<Vec<u8>> = owner.into_iter().flatten().collect();
    canonical.extend(option("TOKEN", request.token));
    assert!(request.after_ms.is_none_or(|ms| (1..=NUMBER_MAX).contains(&ms)));
    canonical.extend(option("AFTER", request.after_ms));
    canonical.extend([b"REASON".to_vec(), request.reason.to_vec()]);
    assert_eq!(ForceRelease::parse(slices(&canonical)), Ok(request));
}

fn list(request: List<'_>) {
    assert!(request.limit <= NUMBER_MAX);
    let pattern = request.pattern.map(|pattern| [b"MATCH".to_vec(), pattern.to_vec()]);
    let mut canonical: Vec<Vec<u8>> = pattern.into_iter().flatten().collect();
    canonical.extend(option("LIMIT", Some(request.limit)));
    canonical.extend(option("CURSOR", request.cursor));
    assert_eq!(List::parse(slices(&canonical)), Ok(request));
}

fn stats(stats: request::Stats<'_>) {
    let key = stats.map(|key| [b"KEY".to_vec(), key.to_vec()]);
    let canonical: Vec<Vec<u8>> = key.into_iter().flatten().collect();
    assert_eq!(request::stats(slices(&canonical)), Ok(stats));
}

fn log(log: Log) {
    let canonical = match log {
        Log::Show { count: None, .. } => Vec::new(),
        Log::Show { count: Some(count), offset } => {
            vec![number(count), b"OFFSET".to_vec(), number(offset)]
        }
        Log::Reset => vec![b"RESET".to_vec()],
    };
    assert_eq!(request::log(slices(&canonical)), Ok(log));
}

fn metrics(metrics: Metrics) {
    let canonical: Vec<Vec<u8>> = match metrics {
        Metrics::Whole => Vec::new(),
        Metrics::Portion { cursor, count } => {
            assert!(cursor <= NUMBER_MAX);
            assert!((1..=1024).contains(&count));
            let cursor = option("CURSOR", Some(cursor));
            cursor.into_iter().chain(option("COUNT", Some(count as u64))).collect()
        }
    };
    assert_eq!(request::metrics(slices(&canonical)), Ok(metrics));
}

fn assert_owner(owner: &[u8]) {
    assert!((1..=1024).contains(&owner.len()));
}

fn assert_token(token: Option<u64>) {
    assert!(token.is_none_or(|token| (1..=NUMBER_MAX).contains(&token)));
}

fn assert_lease(lease_ms: Option<u64>) {
    assert!(lease_ms.is_none_or(|ms| (1..=NUMBER_MAX).contains(&ms)));
}

/// The options of ACQUIRE, with times in ms.
fn options_of(request: &Acquire<'_>) -> Vec<Vec<u8>> {
    assert_lease(request.lease_ms);
    let assert_time = |ms: Option<u64>| assert!(ms.is_none_or(|ms| ms <= NUMBER_MAX));
    assert_time(request.block_ms);
    assert_time(request.session_grace_ms);
    let mut canonical = option("PX", request.lease_ms);
    canonical.extend(option("BLOCK", request.block_ms));
    canonical.extend(request.unique.then(|| b"UNIQUE".to_vec()));
    canonical.extend(request.session_grace_ms.map(|_| b"SESSION".to_vec()));
    canonical.extend(option("GRACE", request.session_grace_ms));
    assert!(request.keep_ms.is_none_or(|ms| request.unique && ms <= KEEP_MAX_MS));
    canonical.extend(option("KEEP", request.keep_ms));
    assert!((-100..=100).contains(&request.priority));
    canonical.extend([b"PRIORITY".to_vec(), request.priority.to_string().into_bytes()]);
    assert!(request.share.is_none_or(|share| (1..=256).contains(&share.len())));
    canonical.extend(text_option("SHARE", request.share));
    canonical
}

fn text_option(word: &str, value: Option<&[u8]>) -> Vec<Vec<u8>> {
    value.map(|value| vec![word.into(), value.to_vec()]).unwrap_or_default()
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
