//! Each rule of the checker, on small histories: one that satisfies the rule, and the
//! same with one change that violates it; and each exemption, with its event and without.

use std::collections::BTreeMap;

use gpulock_chaos::checker::{Rule, check};
use gpulock_chaos::client::REPLY_TIMEOUT_MS;
use gpulock_chaos::clock::{MS, Nanos};
use gpulock_chaos::history::{
    AcquireOptions, Call, Connection, Entry, Event, Groups, Inspection, Lock, Owner,
    Reply, Request, StatsSample,
};
use gpulock_chaos::locks::FIRST_GPU;

const LOCK: Lock = Lock(0, 1);
const A: Owner = Owner(1, 1);
const B: Owner = Owner(2, 1);
const C: Owner = Owner(3, 1);
const D: Owner = Owner(4, 1);
const E: Owner = Owner(5, 1);

/// A lease of a second, no other options.
const PLAIN: AcquireOptions = AcquireOptions::with_lease(1_000);
const WAITS: AcquireOptions = AcquireOptions { block_ms: Some(5_000), ..PLAIN };

/// A call over its owner's connection, with times in ms.
fn call(client: u32, sent: u64, received: u64, request: Request, reply: Reply) -> Entry {
    let connection = Connection(client, 1);
    Entry::Call(Call {
        connection,
        sent: sent * MS,
        received: received * MS,
        request,
        reply,
    })
}

fn acquire(
    owner: Owner,
    options: AcquireOptions,
    sent: u64,
    received: u64,
    reply: Reply,
) -> Entry {
    call(owner.0, sent, received, Request::Acquire { lock: LOCK, owner, options }, reply)
}

fn granted(owner: Owner, sent: u64, received: u64, token: u64) -> Entry {
    acquire(owner, PLAIN, sent, received, Reply::Token(token))
}

fn waited(owner: Owner, sent: u64, received: u64, token: u64) -> Entry {
    acquire(owner, WAITS, sent, received, Reply::Token(token))
}

fn release(owner: Owner, sent: u64, received: u64, done: bool) -> Entry {
    let request = Request::Release { lock: LOCK, owner, token: None };
    call(owner.0, sent, received, request, Reply::Released(done))
}

fn extend(owner: Owner, sent: u64, received: u64, reply: Reply) -> Entry {
    let request = Request::Extend { lock: LOCK, owner, lease_ms: 1_000, token: None };
    call(owner.0, sent, received, request, reply)
}

fn force_release(from: Owner, after_ms: Option<u64>) -> Request {
    Request::ForceRelease { lock: LOCK, owner: Some(from), token: None, after_ms }
}

fn force_released(from: Owner, sent: u64, received: u64) -> Entry {
    call(
        9,
        sent,
        received,
        force_release(from, None),
        Reply::ForceReleased(from.to_string()),
    )
}

fn inspection(sent: u64, received: u64, holder: (Owner, u64), queue: &[Owner]) -> Entry {
    let (owner, token) = (Some(holder.0), Some(holder.1));
    inspected(
        sent,
        received,
        Inspection { owner, token, revoked_ms: None, queue: queue.to_vec() },
    )
}

fn inspected(sent: u64, received: u64, inspection: Inspection) -> Entry {
    let request = Request::Inspect { lock: LOCK };
    call(9, sent, received, request, Reply::Inspection(inspection))
}

fn modified(from: u64, to: u64) -> Entry {
    let (by, locks) = ("DEL".to_owned(), Some(vec![LOCK]));
    Entry::Event(Event::KeysModified { by, locks, from: from * MS, to: to * MS })
}

fn modified_all(from: u64, to: u64) -> Entry {
    let by = "FLUSHALL".to_owned();
    Entry::Event(Event::KeysModified { by, locks: None, from: from * MS, to: to * MS })
}

fn state_lost(from: u64, to: u64) -> Entry {
    let by = "restart".to_owned();
    Entry::Event(Event::StateLost { by, from: from * MS, to: to * MS })
}

fn closed(client: u32, at: u64) -> Entry {
    Entry::Event(Event::Closed { connection: Connection(client, 1), at: at * MS })
}

fn counted(is_final: bool, counters: &[(&str, i64)]) -> Entry {
    let counters = counters.iter().map(|(name, n)| ((*name).to_owned(), *n));
    let counters: BTreeMap<String, i64> = counters.collect();
    let at: Nanos = 10 * MS;
    Entry::Stats(StatsSample { at, counters, is_final })
}

/// The rules that a history breaks.
fn broken(history: &[Entry]) -> Vec<Rule> {
    let violations = check(history).violations;
    let mut rules: Vec<Rule> = violations.iter().map(|broken| broken.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// As [`broken`], with another entry.
fn with(history: &[Entry], entry: Entry) -> Vec<Rule> {
    broken(&[history, &[entry]].concat())
}

#[test]
fn hand_offs_break_no_rule() {
    let history = [
        granted(A, 0, 1, 10),
        waited(B, 2, 6, 11),
        release(A, 5, 7, true),
        extend(B, 8, 9, Reply::Token(11)),
        release(B, 10, 11, true),
        granted(C, 12, 13, 12),
        release(C, 14, 15, true),
    ];
    assert_eq!(broken(&history), []);
    let verdict = check(&history);
    assert_eq!((verdict.calls, verdict.grants, verdict.lost), (7, 3, 0));
}

#[test]
fn a_token_is_granted_once() {
    let first = [granted(A, 0, 1, 10), release(A, 2, 3, true)];
    assert_eq!(with(&first, granted(B, 4, 5, 11)), []);
    assert_eq!(with(&first, granted(B, 4, 5, 10)), [Rule::UniqueTokens]);
}

#[test]
fn only_unique_calls_return_the_same_token_again() {
    let unique = AcquireOptions { unique: true, ..PLAIN };
    let again = |options| {
        let first = acquire(A, options, 0, 1, Reply::Token(10));
        broken(&[first, acquire(A, options, 2, 3, Reply::Token(10))])
    };
    assert_eq!(again(unique), []);
    assert_eq!(again(PLAIN), [Rule::UniqueTokens]);
}

#[test]
fn tokens_of_non_concurrent_grants_increase_over_all_locks() {
    let other = |sent| {
        let request = Request::Acquire { lock: Lock(1, 7), owner: B, options: PLAIN };
        call(2, sent, 9, request, Reply::Token(9))
    };
    let first = [granted(A, 0, 2, 10)];
    assert_eq!(with(&first, other(1)), []);
    assert_eq!(with(&first, other(3)), [Rule::IncreasingTokens]);
}

#[test]
fn a_lock_has_one_owner_until_the_hold_may_have_ended() {
    let two = [granted(A, 0, 1, 10), granted(B, 100, 101, 11)];
    assert_eq!(broken(&two), [Rule::MutualExclusion]);
    let lost = call(
        1,
        50,
        60,
        Request::Release { lock: LOCK, owner: A, token: None },
        Reply::Lost,
    );
    for cause in
        [release(A, 50, 150, true), lost, force_released(A, 50, 150), modified(50, 60)]
    {
        assert_eq!(with(&two, cause.clone()), [], "{cause:?}");
    }
    // Events that come too late or are unrelated explain nothing.
    for cause in [
        force_released(A, 102, 103),
        modified(102, 103),
        closed(1, 50),
        state_lost(50, 60),
    ] {
        assert_eq!(with(&two, cause.clone()), [Rule::MutualExclusion], "{cause:?}");
    }
    let after_its_lease = [granted(A, 0, 1, 10), granted(B, 1_000, 1_001, 11)];
    assert_eq!(broken(&after_its_lease), []);
}

#[test]
fn an_extended_lease_lasts_longer() {
    let passes_on_at = |ms| {
        let extended = extend(A, 500, 501, Reply::Token(10));
        broken(&[granted(A, 0, 1, 10), extended, granted(B, ms, ms + 1, 11)])
    };
    assert_eq!(passes_on_at(1_400), [Rule::MutualExclusion]);
    assert_eq!(passes_on_at(1_500), []);
}

#[test]
fn a_hold_begins_after_the_previous_one_ends() {
    // B's call was sent early, but its lease of 1 s starts at the end of A's hold.
    let then = |ms| {
        broken(&[
            granted(A, 0, 1, 10),
            release(A, 900, 905, true),
            waited(B, 2, 905, 11),
            granted(C, ms, ms + 1, 12),
        ])
    };
    assert_eq!(then(1_700), [Rule::MutualExclusion]);
    assert_eq!(then(1_900), []);
}

#[test]
fn a_session_ends_with_its_connection_and_grace() {
    let session = AcquireOptions { grace_ms: Some(50), ..PLAIN };
    let two =
        |ms| [acquire(A, session, 0, 1, Reply::Token(10)), granted(B, ms, ms + 1, 11)];
    assert_eq!(with(&two(100), closed(1, 20)), []);
    assert_eq!(with(&two(50), closed(1, 20)), [Rule::MutualExclusion]);
    assert_eq!(with(&two(100), closed(4, 20)), [Rule::MutualExclusion]);
}

#[test]
fn a_hold_does_not_disappear() {
    let first = [granted(A, 0, 1, 10)];
    let lost_replies = [
        release(A, 5, 6, false),
        extend(A, 5, 6, Reply::Null),
        extend(A, 5, 6, Reply::Token(11)),
    ];
    for reply in lost_replies {
        let history = [&first[..], &[reply]].concat();
        assert_eq!(broken(&history), [Rule::HoldsPersist], "{history:?}");
        assert_eq!(with(&history, modified(2, 3)), [], "{history:?}");
    }
    assert_eq!(with(&first, release(A, 1_001, 1_002, false)), []);
    let renamed =
        [granted(A, 0, 1, 10), extend(A, 5, 6, Reply::Token(11)), state_lost(2, 3)];
    assert_eq!(broken(&renamed), []);
}

#[test]
fn only_the_owner_releases_a_lock_and_only_once() {
    assert_eq!(broken(&[release(B, 5, 6, true)]), [Rule::OnlyOwnerReleases]);
    let lost = acquire(B, PLAIN, 0, 1, Reply::Lost);
    assert_eq!(broken(&[lost, release(B, 5, 6, true)]), []);

    let once = [granted(A, 0, 1, 10), release(A, 2, 3, true)];
    assert_eq!(with(&once, release(A, 4, 5, false)), []);
    assert_eq!(with(&once, release(A, 4, 5, true)), [Rule::OnlyOwnerReleases]);
    assert_eq!(with(&once, force_released(A, 2, 3)), [Rule::OnlyOwnerReleases]);
}

#[test]
fn a_release_with_a_wrong_token_has_no_effect() {
    let request = Request::Release { lock: LOCK, owner: A, token: Some(9) };
    let history = |done| {
        [granted(A, 0, 1, 10), call(1, 2, 3, request.clone(), Reply::Released(done))]
    };
    assert_eq!(broken(&history(false)), []);
    assert_eq!(broken(&history(true)), [Rule::OnlyOwnerReleases]);
    // After a restart the server does not know the token and compares the owner only.
    assert_eq!(with(&history(true), state_lost(1, 2)), []);
}

#[test]
fn a_hold_ends_with_its_lease() {
    let first = [granted(A, 0, 1, 10)];
    assert_eq!(with(&first, release(A, 1_002, 1_003, true)), []);
    let late = [&first[..], &[release(A, 1_050, 1_051, true)]].concat();
    assert_eq!(broken(&late), [Rule::LeaseExpiry]);
    assert_eq!(with(&late, modified(500, 501)), []);
    assert_eq!(
        with(&first, extend(A, 1_050, 1_051, Reply::Token(10))),
        [Rule::LeaseExpiry]
    );
}

#[test]
fn inspected_waiters_are_granted_in_queue_order() {
    let queue_before = [
        granted(A, 0, 1, 10),
        release(A, 20, 21, true),
        inspection(5, 6, (A, 10), &[B, C]),
    ];
    let granted_in = |first: (Owner, u64), second: (Owner, u64)| {
        let granted_in = [
            waited(first.0, first.1, 22, 11),
            release(first.0, 23, 24, true),
            waited(second.0, second.1, 25, 12),
        ];
        broken(&[&queue_before[..], &granted_in].concat())
    };
    assert_eq!(granted_in((B, 2), (C, 3)), []);
    assert_eq!(granted_in((C, 3), (B, 2)), [Rule::FifoOrder]);
}

#[test]
fn a_later_call_is_behind_inspected_waiters() {
    let queue_before =
        [granted(A, 0, 1, 10), release(A, 20, 21, true), inspection(5, 6, (A, 10), &[B])];
    let newcomer = |sent| {
        let granted_in =
            [granted(C, sent, 22, 11), release(C, 23, 24, true), waited(B, 2, 25, 12)];
        broken(&[&queue_before[..], &granted_in].concat())
    };
    assert_eq!(newcomer(4), []);
    assert_eq!(newcomer(19), [Rule::FifoOrder]);
}

/// B waits, and a later call of C gets the lock before B does.
fn newcomer_passes(b: AcquireOptions, c: AcquireOptions) -> Vec<Rule> {
    broken(&[
        granted(A, 0, 1, 10),
        inspection(5, 6, (A, 10), &[B]),
        release(A, 20, 21, true),
        acquire(C, c, 19, 22, Reply::Token(11)),
        release(C, 23, 24, true),
        acquire(B, b, 2, 25, Reply::Token(12)),
    ])
}

#[test]
fn a_later_call_passes_only_by_its_priority_or_the_share_of_the_other() {
    let with_priority = |priority| AcquireOptions { priority, ..WAITS };
    let shared = AcquireOptions { share: Some(1), ..WAITS };
    for (b, c, rules) in [
        (WAITS, WAITS, &[Rule::FifoOrder][..]),
        (WAITS, with_priority(1), &[]),
        (WAITS, with_priority(-1), &[Rule::FifoOrder]),
        (WAITS, shared, &[Rule::FifoOrder]),
        (shared, WAITS, &[]),
        (with_priority(1), WAITS, &[Rule::FifoOrder]),
        (with_priority(1), with_priority(1), &[Rule::FifoOrder]),
        (with_priority(-1), WAITS, &[]),
    ] {
        assert_eq!(newcomer_passes(b, c), rules, "{b:?} {c:?}");
    }
}

#[test]
fn a_priority_passes_a_waiter_for_a_limited_number_of_grants() {
    // While B waits, the lock is granted twice to others, then to C.
    let passes = |round, priority, sent, others: AcquireOptions| {
        let urgent = AcquireOptions { priority, ..WAITS };
        broken(&[
            Entry::Event(Event::QueueRound { grants: round }),
            granted(A, 0, 1, 10),
            inspection(5, 6, (A, 10), &[B]),
            release(A, 20, 21, true),
            acquire(D, others, 7, 22, Reply::Token(11)),
            release(D, 23, 24, true),
            acquire(E, others, 8, 25, Reply::Token(12)),
            release(E, 30, 31, true),
            acquire(C, urgent, sent, 32, Reply::Token(13)),
            release(C, 33, 34, true),
            waited(B, 2, 35, 14),
        ])
    };
    let urgent = AcquireOptions { priority: 5, ..WAITS };
    assert_eq!(passes(2, 1, 26, urgent), [Rule::FifoOrder]);
    assert_eq!(passes(1, 2, 26, urgent), [Rule::FifoOrder]);
    assert_eq!(passes(1, 1, 23, urgent), [Rule::FifoOrder]);
    // A round or a priority more, or sent before the second grant.
    assert_eq!(passes(3, 1, 26, urgent), []);
    assert_eq!(passes(2, 2, 26, urgent), []);
    assert_eq!(passes(1, 3, 26, urgent), []);
    assert_eq!(passes(2, 1, 25, urgent), []);
    // These may be renewals of an adopted lock, which the queue does not count.
    let unique = AcquireOptions { unique: true, ..urgent };
    assert_eq!(passes(2, 1, 26, unique), []);
}

/// Two locks of each of `wanted` groups of GPUs: 0 and 1, 2 and 3, 4 to 6.
fn acquire_groups(owner: Owner, wanted: usize, options: AcquireOptions) -> Request {
    let groups = Some(Groups { wanted, sizes: vec![2, 2, 3] });
    let locks = (0..7).map(gpu).collect();
    Request::AcquireAny { locks, count: 2, groups, near: None, owner, options }
}

fn gpu(number: u32) -> Lock {
    Lock(0, FIRST_GPU + number)
}

fn tokens(numbers: &[u32]) -> Reply {
    let tokens = numbers.iter().zip(20..).map(|(number, token)| (gpu(*number), token));
    Reply::Tokens(tokens.collect())
}

#[test]
fn others_may_pass_a_call_with_groups() {
    let inspect = |queue: &[Owner]| {
        let (owner, token) = (Some(A), Some(10));
        let result = Inspection { owner, token, revoked_ms: None, queue: queue.to_vec() };
        let request = Request::Inspect { lock: gpu(0) };
        call(9, 5, 6, request, Reply::Inspection(result))
    };
    let single = |owner: Owner, options, sent, received, token| {
        let request = Request::Acquire { lock: gpu(0), owner, options };
        call(owner.0, sent, received, request, Reply::Token(token))
    };
    let release = |owner: Owner, sent| {
        let request = Request::Release { lock: gpu(0), owner, token: None };
        call(owner.0, sent, sent + 1, request, Reply::Released(true))
    };
    let history = |queue, first: Entry, second: Entry| {
        let begin = [single(A, PLAIN, 0, 1, 10), inspect(queue), release(A, 20)];
        broken(&[&begin[..], &[first, release(C, 23), second]].concat())
    };
    // C passes B, whether it waited behind B or came later.
    let groups = call(2, 2, 30, acquire_groups(B, 1, WAITS), tokens(&[0, 1]));
    for sent in [3, 19] {
        let first = single(C, WAITS, sent, 22, 11);
        assert_eq!(history(&[B, C], first.clone(), groups.clone()), []);
        assert_eq!(
            history(&[B, C], first, single(B, WAITS, 2, 30, 12)),
            [Rule::FifoOrder]
        );
    }
}

#[test]
fn a_lock_set_is_granted_as_a_whole() {
    let granted = |wanted, numbers: &[u32]| {
        let request = acquire_groups(A, wanted, PLAIN);
        broken(&[call(1, 0, 1, request, tokens(numbers))])
    };
    assert_eq!(granted(1, &[2, 3]), []);
    assert_eq!(granted(1, &[4, 6]), []);
    assert_eq!(granted(2, &[5, 6, 1, 0]), []);
    for (wanted, numbers) in [
        (1, &[1, 2][..]),
        (1, &[0]),
        (1, &[4, 5, 6]),
        (1, &[0, 1, 2]),
        (1, &[0, 1, 2, 3]),
        (2, &[0, 1, 2]),
        (2, &[0, 1]),
        (1, &[7, 8]),
    ] {
        let rules = granted(wanted, numbers);
        assert!(rules.contains(&Rule::CompleteLockSets), "{wanted} {numbers:?}");
    }

    let without_groups = |numbers: &[u32]| {
        let (locks, groups) = ((0..3).map(gpu).collect(), None);
        let request = Request::AcquireAny {
            locks,
            count: 2,
            groups,
            near: None,
            owner: A,
            options: PLAIN,
        };
        broken(&[call(1, 0, 1, request, tokens(numbers))])
    };
    assert_eq!(without_groups(&[2, 0]), []);
    assert_eq!(without_groups(&[0]), [Rule::CompleteLockSets]);
    assert_eq!(without_groups(&[0, 1, 2]), [Rule::CompleteLockSets]);
}

/// A has the lock from 0 to 1 ms on, and is given notice of 50 ms at 10 to 11 ms.
fn after_notice() -> [Entry; 2] {
    let unique = AcquireOptions { unique: true, ..PLAIN };
    let notice = force_release(A, Some(50));
    [
        acquire(A, unique, 0, 1, Reply::Token(10)),
        call(9, 10, 11, notice, Reply::ForceReleased(A.to_string())),
    ]
}

#[test]
fn a_hold_ends_at_the_deadline_of_a_notice() {
    let history = after_notice();
    let unique = AcquireOptions { unique: true, ..PLAIN };
    let uses = |sent| {
        [
            extend(A, sent, sent + 1, Reply::Token(10)),
            acquire(A, unique, sent, sent + 1, Reply::Token(10)),
            release(A, sent, sent + 1, true),
            inspection_after_notice(sent, Some(1)),
        ]
    };
    for entry in uses(64) {
        assert_eq!(with(&history, entry.clone()), [], "{entry:?}");
    }
    // An earlier renewal does not move the deadline.
    let renewed = [&history[..], &[extend(A, 30, 31, Reply::Token(10))]].concat();
    for history in [&history[..], &renewed] {
        for entry in uses(67) {
            assert_eq!(with(history, entry.clone()), [Rule::NoticeDeadline], "{entry:?}");
            // The server forgot the notice, or another hold began.
            for event in [state_lost(20, 21), modified(20, 21)] {
                let history = [history, &[event]].concat();
                assert_eq!(with(&history, entry.clone()), [], "{entry:?}");
            }
        }
    }
    // The owner acquired the lock again.
    let again = acquire(A, unique, 70, 71, Reply::Token(12));
    let again = [&history[..], &[again]].concat();
    assert_eq!(with(&again, release(A, 80, 81, true)), []);
    // Nothing is known about a notice without a reply.
    let [first, _] = history;
    let unknown = call(9, 10, 11, force_release(A, Some(50)), Reply::Lost);
    for entry in uses(67) {
        assert_eq!(broken(&[first.clone(), unknown.clone(), entry]), []);
    }
}

#[test]
fn a_hold_lasts_until_the_deadline_of_a_notice() {
    let then = |ms| with(&after_notice(), granted(B, ms, ms + 1, 11));
    assert_eq!(then(50), [Rule::MutualExclusion]);
    assert_eq!(then(60), []);
    let lost = |ms| with(&after_notice(), release(A, ms, ms + 1, false));
    assert_eq!(lost(50), [Rule::HoldsPersist]);
    assert_eq!(lost(60), []);
    // A notice without a reply may have been given.
    let [first, _] = after_notice();
    let unknown = call(9, 10, 11, force_release(A, Some(50)), Reply::Lost);
    assert_eq!(broken(&[first, unknown, granted(B, 60, 61, 11)]), []);
}

fn inspection_after_notice(sent: u64, revoked_ms: Option<u64>) -> Entry {
    let (owner, token, queue) = (Some(A), Some(10), Vec::new());
    inspected(sent, sent + 1, Inspection { owner, token, revoked_ms, queue })
}

#[test]
fn inspect_shows_the_time_left_after_a_notice() {
    let shows = |sent, left| with(&after_notice(), inspection_after_notice(sent, left));
    assert_eq!(shows(20, Some(40)), []);
    assert_eq!(shows(20, Some(0)), []);
    assert_eq!(shows(20, Some(50)), [Rule::NoticeDeadline]);
    assert_eq!(shows(20, None), [Rule::NoticeDeadline]);
    // Before the notice and during it.
    assert_eq!(shows(5, None), []);
    assert_eq!(shows(10, None), []);
    assert_eq!(shows(10, Some(50)), []);
    assert_eq!(shows(5, Some(50)), [Rule::NoticeDeadline]);
}

#[test]
fn a_key_renamed_to_another_lock_is_renewed_there_without_waiting() {
    let elsewhere = |owner: Owner| {
        let request = Request::Acquire { lock: Lock(0, 2), owner, options: PLAIN };
        call(owner.0, 0, 1, request, Reply::Token(9))
    };
    let queue_before = |options| {
        [
            granted(A, 0, 1, 10),
            inspection(5, 6, (A, 10), &[B]),
            acquire(C, options, 15, 16, Reply::Token(11)),
            release(C, 17, 18, true),
            waited(B, 2, 25, 12),
        ]
    };
    let unique = AcquireOptions { unique: true, ..PLAIN };
    let renamed = |owner, options| {
        broken(
            &[&[elsewhere(owner), modified(10, 11)], &queue_before(options)[..]].concat(),
        )
    };
    assert_eq!(renamed(C, unique), []);
    assert_eq!(renamed(C, PLAIN), [Rule::FifoOrder]);
    assert_eq!(renamed(B, unique), [Rule::FifoOrder]);
    let nothing_renamed =
        [&[elsewhere(C), modified(30, 31)], &queue_before(unique)[..]].concat();
    assert_eq!(broken(&nothing_renamed), [Rule::MutualExclusion, Rule::FifoOrder]);
}

#[test]
fn a_waiter_for_an_idle_lock_is_a_lost_wakeup() {
    let waits = |received| {
        acquire(
            B,
            AcquireOptions { block_ms: Some(received), ..PLAIN },
            5,
            5 + received,
            Reply::Null,
        )
    };
    let first = [granted(A, 0, 1, 10), release(A, 2, 3, true)];
    // Other clients get replies in the meantime.
    let others: Vec<Entry> = (1..10)
        .map(|n| {
            call(9, n * 500, n * 500 + 1, Request::Inspect { lock: LOCK }, Reply::Null)
        })
        .collect();
    assert_eq!(with(&[&first[..], &others].concat(), waits(3_000)), []);
    let idle = [&first[..], &[waits(5_000)]].concat();
    let starved = [&idle[..], &others].concat();
    assert_eq!(broken(&starved), [Rule::NoLostWakeup]);
    assert_eq!(with(&starved, modified(2_000, 2_001)), []);
    // Without those replies, the server was stalled.
    assert_eq!(broken(&idle), []);
    let sample = |n: u64| {
        let (at, counters) = (n * 500 * MS, BTreeMap::new());
        Entry::Stats(StatsSample { at, counters, is_final: false })
    };
    let samples: Vec<Entry> = (1..10).map(sample).collect();
    assert_eq!(broken(&[&idle[..], &samples].concat()), [Rule::NoLostWakeup]);
}

#[test]
fn a_waiter_for_groups_of_idle_locks_is_a_lost_wakeup() {
    let options = AcquireOptions { block_ms: Some(5_000), ..PLAIN };
    let waits = call(2, 5, 5_005, acquire_groups(B, 1, options), Reply::Null);
    let first = call(1, 0, 1, acquire_groups(A, 2, PLAIN), tokens(&[0, 1, 2, 3]));
    let others = (1..10).map(|n| {
        let request = Request::Inspect { lock: LOCK };
        call(9, n * 500, n * 500 + 1, request, Reply::Null)
    });
    let idle: Vec<Entry> = others.chain([first, waits]).collect();
    assert_eq!(broken(&idle), [Rule::NoLostWakeup]);
    assert_eq!(with(&idle, modified_all(2_000, 2_001)), []);
    // Another lock of the set is used, and the waiter needs those that are reserved for
    // the client that waits for it.
    let used = |lock| {
        let request = Request::Acquire { lock, owner: C, options: PLAIN };
        with(&idle, call(3, 2_000, 2_001, request, Reply::Token(30)))
    };
    assert_eq!(used(gpu(6)), []);
    assert_eq!(used(gpu(8)), [Rule::NoLostWakeup]);
}

#[test]
fn nothing_is_granted_while_writes_are_refused() {
    let error = |from, to| {
        let by = "MISCONF".to_owned();
        Entry::Event(Event::WritesRefused { by, from: from * MS, to: to * MS })
    };
    // Only the end of the session explains the hand-off.
    let session = AcquireOptions { grace_ms: Some(0), ..PLAIN };
    let handed_over = [
        acquire(A, session, 0, 1, Reply::Token(10)),
        closed(1, 50),
        waited(B, 2, 60, 11),
    ];
    assert_eq!(broken(&handed_over), []);
    assert_eq!(with(&handed_over, error(40, 70)), [Rule::NoGrantWhileWritesRefused]);
    // It may have happened just before or just after the refusal.
    assert_eq!(with(&handed_over, error(50, 70)), []);
    assert_eq!(with(&handed_over, error(40, 60)), []);
    let newcomer = [granted(A, 50, 51, 10)];
    assert_eq!(with(&newcomer, error(40, 70)), [Rule::NoGrantWhileWritesRefused]);
    assert_eq!(with(&newcomer, error(52, 70)), []);
}

#[test]
fn nothing_is_granted_without_permission() {
    let withdrawn = |client, from, to| {
        let connections = vec![Connection(client, 1)];
        Entry::Event(Event::PermissionRevoked {
            connections,
            from: from * MS,
            to: to * MS,
        })
    };
    let waits = [granted(A, 0, 1, 10), release(A, 50, 51, true), waited(B, 2, 55, 11)];
    assert_eq!(with(&waits, withdrawn(2, 40, 60)), [Rule::NoGrantWithoutPermission]);
    assert_eq!(with(&waits, withdrawn(2, 51, 60)), []);
    assert_eq!(with(&waits, withdrawn(2, 40, 55)), []);
    assert_eq!(with(&waits, withdrawn(3, 40, 60)), []);
}

#[test]
fn a_script_reads_the_same_value_twice() {
    let read = |first: Option<&str>, last: Option<&str>| {
        let (first, last) = (first.map(str::to_owned), last.map(str::to_owned));
        broken(&[Entry::Event(Event::ScriptReads {
            lock: LOCK,
            first,
            last,
            from: 0,
            to: MS,
        })])
    };
    assert_eq!(read(Some("c1.1"), Some("c1.1")), []);
    assert_eq!(read(None, None), []);
    assert_eq!(read(Some("c1.1"), None), [Rule::AtomicScripts]);
    assert_eq!(read(Some("c1.1"), Some("c2.1")), [Rule::AtomicScripts]);
    assert_eq!(read(None, Some("c2.1")), [Rule::AtomicScripts]);
}

/// Another client changes the lease of A's hold.
fn lease_changes(lease_ms: Option<u64>, from: u64, to: u64) -> Entry {
    let (from, to) = (from * MS, to * MS);
    Entry::Event(Event::LeaseChanged { lock: LOCK, owner: A, lease_ms, from, to })
}

#[test]
fn a_hold_continues_when_another_client_extends_its_lease() {
    let first = [granted(A, 0, 1, 10)];
    let longer = [&first[..], &[lease_changes(Some(2_000), 900, 990)]].concat();
    let endless = [&first[..], &[lease_changes(None, 900, 990)]].concat();

    // The hold lasts longer, and ends with the new lease.
    for history in [&longer, &endless] {
        assert_eq!(with(history, granted(B, 2_800, 2_801, 11)), [Rule::MutualExclusion]);
        assert_eq!(with(history, release(A, 2_800, 2_801, false)), [Rule::HoldsPersist]);
        assert_eq!(with(history, release(A, 2_800, 2_801, true)), []);
    }
    assert_eq!(with(&longer, granted(B, 2_900, 2_901, 11)), []);
    assert_eq!(with(&longer, release(A, 3_050, 3_051, true)), [Rule::LeaseExpiry]);
    assert_eq!(with(&endless, release(A, 9_000, 9_001, true)), []);
    assert_eq!(with(&endless, granted(B, 9_000, 9_001, 11)), [Rule::MutualExclusion]);

    // Its token stays the same, for EXTEND and for a renewal.
    let same = extend(A, 1_100, 1_101, Reply::Token(10));
    assert_eq!(with(&longer, same.clone()), []);
    assert_eq!(with(&first, same), [Rule::LeaseExpiry]);
    let other = extend(A, 1_100, 1_101, Reply::Token(11));
    assert_eq!(with(&longer, other), [Rule::HoldsPersist]);
    let unique = AcquireOptions { unique: true, ..PLAIN };
    let renewed = |token| acquire(A, unique, 1_100, 1_101, Reply::Token(token));
    let first = acquire(A, unique, 0, 1, Reply::Token(10));
    let longer = [first, lease_changes(Some(2_000), 900, 990)];
    assert_eq!(with(&longer, renewed(10)), []);
    assert_eq!(with(&longer, renewed(11)), [Rule::MutualExclusion]);
    // A lease set by the owner itself replaces the changed one.
    let shorter = [&longer[..], &[renewed(10)]].concat();
    assert_eq!(with(&shorter, granted(B, 2_050, 2_051, 11)), [Rule::MutualExclusion]);
    assert_eq!(with(&shorter, granted(B, 2_100, 2_101, 11)), []);
}

#[test]
fn data_loss_exempts_all_locks_but_the_one_on_disk() {
    let lost = |but| Entry::Event(Event::DataLost { but, from: 40 * MS, to: 50 * MS });
    let two = [granted(A, 0, 1, 10), granted(B, 60, 61, 11)];
    assert_eq!(with(&two, lost(None)), []);
    assert_eq!(with(&two, lost(Some(Lock(0, 2)))), []);
    assert_eq!(with(&two, lost(Some(LOCK))), [Rule::MutualExclusion]);
}

#[test]
fn only_a_connection_with_subscriptions_may_be_unable_to_wait() {
    let error = "ERR BLOCK is not possible on this connection: it has subscriptions";
    let error = |options| [acquire(A, options, 5, 6, Reply::Error(error.to_owned()))];
    let subscribed =
        |client| Entry::Event(Event::Subscribed { connection: Connection(client, 1) });
    assert_eq!(broken(&error(WAITS)), [Rule::NoUnexpectedErrors]);
    assert_eq!(with(&error(WAITS), subscribed(1)), []);
    assert_eq!(with(&error(WAITS), subscribed(2)), [Rule::NoUnexpectedErrors]);
    assert_eq!(with(&error(PLAIN), subscribed(1)), [Rule::NoUnexpectedErrors]);
}

#[test]
fn every_call_gets_a_reply_and_waits_last_for_the_requested_time() {
    assert_eq!(broken(&[acquire(A, PLAIN, 0, REPLY_TIMEOUT_MS - 100, Reply::Null)]), []);
    assert_eq!(
        broken(&[acquire(A, PLAIN, 0, REPLY_TIMEOUT_MS + 100, Reply::Null)]),
        [Rule::EveryCallReplied]
    );
    assert_eq!(
        broken(&[acquire(A, WAITS, 0, REPLY_TIMEOUT_MS + 5_000, Reply::Timeout)]),
        [Rule::EveryCallReplied]
    );

    let options = AcquireOptions { block_ms: Some(100), ..PLAIN };
    assert_eq!(broken(&[acquire(A, options, 0, 100, Reply::Null)]), []);
    let early = [acquire(A, options, 0, 50, Reply::Null)];
    assert_eq!(broken(&early), [Rule::FullWait]);
    let unblocked =
        Event::Unblocked { connection: Connection(1, 1), from: 20 * MS, to: 20 * MS };
    assert_eq!(with(&early, Entry::Event(unblocked)), []);
}

#[test]
fn an_error_needs_a_known_cause() {
    let error =
        |options, error: &str| acquire(A, options, 5, 6, Reply::Error(error.to_owned()));
    let oom = [error(PLAIN, "OOM command not allowed")];
    assert_eq!(broken(&oom), [Rule::NoUnexpectedErrors]);
    let errors_expected = |code: &str, from, to| {
        let codes = vec![code.to_owned()];
        Entry::Event(Event::ErrorsExpected { codes, from: from * MS, to: to * MS })
    };
    assert_eq!(with(&oom, errors_expected("OOM ", 0, 5)), []);
    assert_eq!(with(&oom, errors_expected("OOM ", 7, 9)), [Rule::NoUnexpectedErrors]);
    assert_eq!(with(&oom, errors_expected("MISCONF ", 0, 9)), [Rule::NoUnexpectedErrors]);
    let unique = AcquireOptions { unique: true, ..PLAIN };
    assert_eq!(broken(&[error(unique, "DEADLOCK \"a\" -> \"a\"")]), []);
    assert_eq!(
        broken(&[error(PLAIN, "DEADLOCK \"a\" -> \"a\"")]),
        [Rule::NoUnexpectedErrors]
    );
}

#[test]
fn inspect_shows_the_actual_state() {
    let first = [granted(A, 0, 1, 10), release(A, 20, 21, true)];
    assert_eq!(with(&first, inspection(5, 6, (A, 10), &[])), []);
    assert_eq!(with(&first, inspection(5, 6, (B, 10), &[])), [Rule::AccurateInspect]);
    assert_eq!(with(&first, inspection(5, 6, (A, 11), &[])), [Rule::AccurateInspect]);
    assert_eq!(with(&first, inspection(22, 23, (A, 10), &[])), [Rule::AccurateInspect]);
    // The token may belong to the grant without a reply.
    let lost = acquire(B, PLAIN, 22, 23, Reply::Lost);
    assert_eq!(with(&[lost], inspection(24, 25, (B, 11), &[])), []);
}

#[test]
fn the_counters_add_up_and_nothing_is_left() {
    let counters = [("acquired", 5), ("adopted", 1), ("releases", 4), ("expired", 1)];
    let with_held = |held, is_final| {
        let all = [&counters[..], &[("locks_held", held)]].concat();
        broken(&[counted(is_final, &all)])
    };
    assert_eq!(with_held(1, false), []);
    assert_eq!(with_held(2, false), [Rule::ConsistentCounters]);
    assert_eq!(with_held(1, true), [Rule::NothingLeft]);
    let waiting = [("acquired", 1), ("releases", 1), ("clients_waiting", 1)];
    assert_eq!(broken(&[counted(false, &waiting)]), []);
    assert_eq!(broken(&[counted(true, &waiting)]), [Rule::NothingLeft]);
    assert_eq!(broken(&[counted(false, &[("internal_errors", 1)])]), [Rule::ServerAlive]);
}

#[test]
fn a_short_lived_lock_is_linearizable() {
    let short_lived = Lock(0, 5_000);
    let acquire = |owner: Owner, sent, received, reply| {
        let options = AcquireOptions { lease_ms: 60_000, ..PLAIN };
        call(
            owner.0,
            sent,
            received,
            Request::Acquire { lock: short_lived, owner, options },
            reply,
        )
    };
    let release = |owner: Owner, sent, received| {
        let request = Request::Release { lock: short_lived, owner, token: None };
        call(owner.0, sent, received, request, Reply::Released(true))
    };
    // Null although the lock is free: no other rule detects that.
    let history = |sent| {
        [
            acquire(A, 0, 1, Reply::Token(10)),
            release(A, 2, 3),
            acquire(B, sent, 5, Reply::Null),
        ]
    };
    assert_eq!(check(&history(1)).windows, 1);
    assert_eq!(broken(&history(1)), []);
    assert_eq!(broken(&history(4)), [Rule::Linearizable]);
    // Unless a client without a reply may hold it.
    assert_eq!(with(&history(4), acquire(C, 3, 4, Reply::Lost)), []);
}
