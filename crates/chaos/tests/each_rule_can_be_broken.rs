//! Each rule of the checker, on histories small enough to be read: one that keeps it, and the
//! same with one thing changed that breaks it; and what a fault excuses, with the fault and
//! without.

use std::collections::BTreeMap;

use gpulock_chaos::checker::{Rule, check};
use gpulock_chaos::client::PATIENCE_MS;
use gpulock_chaos::clock::{MS, Nanos};
use gpulock_chaos::history::{
    Answer, Ask, Call, Connection, Counted, Entry, Event, How, Lock, Owner, Shown,
};

const LOCK: Lock = Lock(0, 1);
const A: Owner = Owner(1, 1);
const B: Owner = Owner(2, 1);
const C: Owner = Owner(3, 1);

/// A lease of a second, nothing else.
const PLAIN: How = How { lease_ms: 1_000, block_ms: None, unique: false, grace_ms: None };
const WAITS: How = How { block_ms: Some(5_000), ..PLAIN };

/// A call over its owner's connection, with times in ms.
fn call(client: u32, asked: u64, heard: u64, ask: Ask, answer: Answer) -> Entry {
    let connection = Connection(client, 1);
    Entry::Call(Call { connection, asked: asked * MS, heard: heard * MS, ask, answer })
}

fn acquire(owner: Owner, how: How, asked: u64, heard: u64, answer: Answer) -> Entry {
    call(owner.0, asked, heard, Ask::Acquire { lock: LOCK, owner, how }, answer)
}

fn granted(owner: Owner, asked: u64, heard: u64, token: u64) -> Entry {
    acquire(owner, PLAIN, asked, heard, Answer::Token(token))
}

fn waited(owner: Owner, asked: u64, heard: u64, token: u64) -> Entry {
    acquire(owner, WAITS, asked, heard, Answer::Token(token))
}

fn release(owner: Owner, asked: u64, heard: u64, done: bool) -> Entry {
    let ask = Ask::Release { lock: LOCK, owner, token: None };
    call(owner.0, asked, heard, ask, Answer::Released(done))
}

fn extend(owner: Owner, asked: u64, heard: u64, answer: Answer) -> Entry {
    let ask = Ask::Extend { lock: LOCK, owner, lease_ms: 1_000, token: None };
    call(owner.0, asked, heard, ask, answer)
}

fn forced(from: Owner, asked: u64, heard: u64) -> Entry {
    let ask = Ask::Force { lock: LOCK, owner: Some(from), token: None };
    call(9, asked, heard, ask, Answer::Taken(from.to_string()))
}

fn look(asked: u64, heard: u64, holder: (Owner, u64), line: &[Owner]) -> Entry {
    let (owner, token) = (Some(holder.0), Some(holder.1));
    let shown = Shown { owner, token, line: line.to_vec() };
    call(9, asked, heard, Ask::Inspect { lock: LOCK }, Answer::Shown(shown))
}

fn touched(from: u64, to: u64) -> Entry {
    let (by, locks) = ("DEL".to_owned(), Some(vec![LOCK]));
    Entry::Event(Event::Touched { by, locks, from: from * MS, to: to * MS })
}

fn forgot(from: u64, to: u64) -> Entry {
    let by = "restart".to_owned();
    Entry::Event(Event::Forgot { by, from: from * MS, to: to * MS })
}

fn closed(client: u32, at: u64) -> Entry {
    Entry::Event(Event::Closed { connection: Connection(client, 1), at: at * MS })
}

fn counted(at_the_end: bool, counters: &[(&str, i64)]) -> Entry {
    let counters = counters.iter().map(|(name, n)| ((*name).to_owned(), *n));
    let counters: BTreeMap<String, i64> = counters.collect();
    let at: Nanos = 10 * MS;
    Entry::Counted(Counted { at, counters, at_the_end })
}

/// Which rules a history breaks, each once.
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
fn nothing_is_wrong_with_locks_that_pass_on() {
    let history = [
        granted(A, 0, 1, 10),
        waited(B, 2, 6, 11),
        release(A, 5, 7, true),
        extend(B, 8, 9, Answer::Token(11)),
        release(B, 10, 11, true),
        granted(C, 12, 13, 12),
        release(C, 14, 15, true),
    ];
    assert_eq!(broken(&history), []);
    let verdict = check(&history);
    assert_eq!((verdict.calls, verdict.grants, verdict.lost), (7, 3, 0));
}

#[test]
fn a_token_is_given_once() {
    let first = [granted(A, 0, 1, 10), release(A, 2, 3, true)];
    assert_eq!(with(&first, granted(B, 4, 5, 11)), []);
    assert_eq!(with(&first, granted(B, 4, 5, 10)), [Rule::TokensDiffer]);
}

#[test]
fn only_unique_is_answered_the_same_token_again() {
    let unique = How { unique: true, ..PLAIN };
    let again = |how| {
        let first = acquire(A, how, 0, 1, Answer::Token(10));
        broken(&[first, acquire(A, how, 2, 3, Answer::Token(10))])
    };
    assert_eq!(again(unique), []);
    assert_eq!(again(PLAIN), [Rule::TokensDiffer]);
}

#[test]
fn tokens_rise_over_all_locks_unless_they_were_asked_for_at_the_same_time() {
    let other = |asked| {
        let ask = Ask::Acquire { lock: Lock(1, 7), owner: B, how: PLAIN };
        call(2, asked, 9, ask, Answer::Token(9))
    };
    let first = [granted(A, 0, 2, 10)];
    assert_eq!(with(&first, other(1)), []);
    assert_eq!(with(&first, other(3)), [Rule::TokensRise]);
}

#[test]
fn a_lock_has_one_owner_until_something_may_have_ended_that() {
    let two = [granted(A, 0, 1, 10), granted(B, 100, 101, 11)];
    assert_eq!(broken(&two), [Rule::OneOwner]);
    let lost =
        call(1, 50, 60, Ask::Release { lock: LOCK, owner: A, token: None }, Answer::Lost);
    for cause in [release(A, 50, 150, true), lost, forced(A, 50, 150), touched(50, 60)] {
        assert_eq!(with(&two, cause.clone()), [], "{cause:?}");
    }
    // What comes too late, or has no part in it, is no cause.
    for cause in [forced(A, 102, 103), touched(102, 103), closed(1, 50), forgot(50, 60)] {
        assert_eq!(with(&two, cause.clone()), [Rule::OneOwner], "{cause:?}");
    }
    let after_its_lease = [granted(A, 0, 1, 10), granted(B, 1_000, 1_001, 11)];
    assert_eq!(broken(&after_its_lease), []);
}

#[test]
fn a_lease_that_was_extended_holds_longer() {
    let passes_on_at = |ms| {
        let extended = extend(A, 500, 501, Answer::Token(10));
        broken(&[granted(A, 0, 1, 10), extended, granted(B, ms, ms + 1, 11)])
    };
    assert_eq!(passes_on_at(1_400), [Rule::OneOwner]);
    assert_eq!(passes_on_at(1_500), []);
}

#[test]
fn a_waiter_cannot_have_been_granted_before_the_one_before_it() {
    // B asked early, and its lease of 1 s is counted from the end of A's hold, not from there.
    let then = |ms| {
        broken(&[
            granted(A, 0, 1, 10),
            release(A, 900, 905, true),
            waited(B, 2, 905, 11),
            granted(C, ms, ms + 1, 12),
        ])
    };
    assert_eq!(then(1_700), [Rule::OneOwner]);
    assert_eq!(then(1_900), []);
}

#[test]
fn a_session_ends_with_its_connection_and_grace() {
    let session = How { grace_ms: Some(50), ..PLAIN };
    let two =
        |ms| [acquire(A, session, 0, 1, Answer::Token(10)), granted(B, ms, ms + 1, 11)];
    assert_eq!(with(&two(100), closed(1, 20)), []);
    assert_eq!(with(&two(50), closed(1, 20)), [Rule::OneOwner]);
    assert_eq!(with(&two(100), closed(4, 20)), [Rule::OneOwner]);
}

#[test]
fn a_hold_does_not_vanish() {
    let first = [granted(A, 0, 1, 10)];
    let gone = [
        release(A, 5, 6, false),
        extend(A, 5, 6, Answer::Null),
        extend(A, 5, 6, Answer::Token(11)),
    ];
    for answer in gone {
        let history = [&first[..], &[answer]].concat();
        assert_eq!(broken(&history), [Rule::HoldsLast], "{history:?}");
        assert_eq!(with(&history, touched(2, 3)), [], "{history:?}");
    }
    assert_eq!(with(&first, release(A, 1_001, 1_002, false)), []);
    let renamed =
        [granted(A, 0, 1, 10), extend(A, 5, 6, Answer::Token(11)), forgot(2, 3)];
    assert_eq!(broken(&renamed), []);
}

#[test]
fn only_the_owner_gives_a_lock_back_and_only_once() {
    assert_eq!(broken(&[release(B, 5, 6, true)]), [Rule::OnlyTheOwner]);
    let lost = acquire(B, PLAIN, 0, 1, Answer::Lost);
    assert_eq!(broken(&[lost, release(B, 5, 6, true)]), []);

    let once = [granted(A, 0, 1, 10), release(A, 2, 3, true)];
    assert_eq!(with(&once, release(A, 4, 5, false)), []);
    assert_eq!(with(&once, release(A, 4, 5, true)), [Rule::OnlyTheOwner]);
    assert_eq!(with(&once, forced(A, 2, 3)), [Rule::OnlyTheOwner]);
}

#[test]
fn a_release_with_another_token_does_nothing() {
    let ask = Ask::Release { lock: LOCK, owner: A, token: Some(9) };
    let history =
        |done| [granted(A, 0, 1, 10), call(1, 2, 3, ask.clone(), Answer::Released(done))];
    assert_eq!(broken(&history(false)), []);
    assert_eq!(broken(&history(true)), [Rule::OnlyTheOwner]);
    // After a restart the token is not known any more: the owner is all that is compared.
    assert_eq!(with(&history(true), forgot(1, 2)), []);
}

#[test]
fn a_hold_ends_with_its_lease() {
    let first = [granted(A, 0, 1, 10)];
    assert_eq!(with(&first, release(A, 1_002, 1_003, true)), []);
    let late = [&first[..], &[release(A, 1_050, 1_051, true)]].concat();
    assert_eq!(broken(&late), [Rule::LeasesEnd]);
    assert_eq!(with(&late, touched(500, 501)), []);
    assert_eq!(
        with(&first, extend(A, 1_050, 1_051, Answer::Token(10))),
        [Rule::LeasesEnd]
    );
}

#[test]
fn who_is_seen_to_wait_comes_before_all_behind_it() {
    let line =
        [granted(A, 0, 1, 10), release(A, 20, 21, true), look(5, 6, (A, 10), &[B, C])];
    let served = |first: (Owner, u64), second: (Owner, u64)| {
        let served = [
            waited(first.0, first.1, 22, 11),
            release(first.0, 23, 24, true),
            waited(second.0, second.1, 25, 12),
        ];
        broken(&[&line[..], &served].concat())
    };
    assert_eq!(served((B, 2), (C, 3)), []);
    assert_eq!(served((C, 3), (B, 2)), [Rule::Order]);
}

#[test]
fn who_asks_after_somebody_was_seen_to_wait_comes_after_it() {
    let line =
        [granted(A, 0, 1, 10), release(A, 20, 21, true), look(5, 6, (A, 10), &[B])];
    let newcomer = |asked| {
        let served =
            [granted(C, asked, 22, 11), release(C, 23, 24, true), waited(B, 2, 25, 12)];
        broken(&[&line[..], &served].concat())
    };
    assert_eq!(newcomer(4), []);
    assert_eq!(newcomer(19), [Rule::Order]);
}

#[test]
fn a_key_that_was_renamed_to_another_lock_is_renewed_there_and_passes_nobody() {
    let elsewhere = |owner: Owner| {
        let ask = Ask::Acquire { lock: Lock(0, 2), owner, how: PLAIN };
        call(owner.0, 0, 1, ask, Answer::Token(9))
    };
    let line = |how| {
        [
            granted(A, 0, 1, 10),
            look(5, 6, (A, 10), &[B]),
            acquire(C, how, 15, 16, Answer::Token(11)),
            release(C, 17, 18, true),
            waited(B, 2, 25, 12),
        ]
    };
    let unique = How { unique: true, ..PLAIN };
    let renamed = |owner, how| {
        broken(&[&[elsewhere(owner), touched(10, 11)], &line(how)[..]].concat())
    };
    assert_eq!(renamed(C, unique), []);
    assert_eq!(renamed(C, PLAIN), [Rule::Order]);
    assert_eq!(renamed(B, unique), [Rule::Order]);
    let nothing_renamed = [&[elsewhere(C), touched(30, 31)], &line(unique)[..]].concat();
    assert_eq!(broken(&nothing_renamed), [Rule::OneOwner, Rule::Order]);
}

#[test]
fn who_waits_for_a_lock_that_nobody_uses_was_forgotten() {
    let waits = |heard| {
        acquire(B, How { block_ms: Some(heard), ..PLAIN }, 5, 5 + heard, Answer::Null)
    };
    let first = [granted(A, 0, 1, 10), release(A, 2, 3, true)];
    // Others are answered meanwhile.
    let others: Vec<Entry> = (1..10)
        .map(|n| call(9, n * 500, n * 500 + 1, Ask::Inspect { lock: LOCK }, Answer::Null))
        .collect();
    assert_eq!(with(&[&first[..], &others].concat(), waits(3_000)), []);
    let still = [&first[..], &[waits(5_000)]].concat();
    let forgotten = [&still[..], &others].concat();
    assert_eq!(broken(&forgotten), [Rule::NoLostWakeUp]);
    assert_eq!(with(&forgotten, touched(2_000, 2_001)), []);
    // It is the server that stood still.
    assert_eq!(broken(&still), []);
}

#[test]
fn nothing_is_granted_while_writes_are_refused() {
    let refused = |from, to| {
        let by = "MISCONF".to_owned();
        Entry::Event(Event::WritesRefused { by, from: from * MS, to: to * MS })
    };
    // The hand-off can be a result of the session's end only.
    let session = How { grace_ms: Some(0), ..PLAIN };
    let handed_over = [
        acquire(A, session, 0, 1, Answer::Token(10)),
        closed(1, 50),
        waited(B, 2, 60, 11),
    ];
    assert_eq!(broken(&handed_over), []);
    assert_eq!(with(&handed_over, refused(40, 70)), [Rule::RefusalsHold]);
    // It may have come right before the refusal, or right after it.
    assert_eq!(with(&handed_over, refused(50, 70)), []);
    assert_eq!(with(&handed_over, refused(40, 60)), []);
    let newcomer = [granted(A, 50, 51, 10)];
    assert_eq!(with(&newcomer, refused(40, 70)), [Rule::RefusalsHold]);
    assert_eq!(with(&newcomer, refused(52, 70)), []);
}

#[test]
fn nothing_is_granted_to_a_user_without_the_right_to_it() {
    let withdrawn = |client, from, to| {
        let connections = vec![Connection(client, 1)];
        Entry::Event(Event::Withdrawn { connections, from: from * MS, to: to * MS })
    };
    let waits = [granted(A, 0, 1, 10), release(A, 50, 51, true), waited(B, 2, 55, 11)];
    assert_eq!(with(&waits, withdrawn(2, 40, 60)), [Rule::RightsHold]);
    assert_eq!(with(&waits, withdrawn(2, 51, 60)), []);
    assert_eq!(with(&waits, withdrawn(2, 40, 55)), []);
    assert_eq!(with(&waits, withdrawn(3, 40, 60)), []);
}

#[test]
fn a_script_reads_the_same_twice() {
    let read = |first: Option<&str>, last: Option<&str>| {
        let (first, last) = (first.map(str::to_owned), last.map(str::to_owned));
        broken(&[Entry::Event(Event::ReadTwice {
            lock: LOCK,
            first,
            last,
            from: 0,
            to: MS,
        })])
    };
    assert_eq!(read(Some("c1.1"), Some("c1.1")), []);
    assert_eq!(read(None, None), []);
    assert_eq!(read(Some("c1.1"), None), [Rule::OneStep]);
    assert_eq!(read(Some("c1.1"), Some("c2.1")), [Rule::OneStep]);
    assert_eq!(read(None, Some("c2.1")), [Rule::OneStep]);
}

/// Another client sets the lease of A's hold.
fn lengthened(lease_ms: Option<u64>, from: u64, to: u64) -> Entry {
    let (from, to) = (from * MS, to * MS);
    Entry::Event(Event::Lengthened { lock: LOCK, owner: A, lease_ms, from, to })
}

#[test]
fn a_hold_whose_lease_others_lengthen_is_the_same_hold() {
    let first = [granted(A, 0, 1, 10)];
    let longer = [&first[..], &[lengthened(Some(2_000), 900, 990)]].concat();
    let endless = [&first[..], &[lengthened(None, 900, 990)]].concat();

    // It holds longer, and ends with the new lease.
    for history in [&longer, &endless] {
        assert_eq!(with(history, granted(B, 2_800, 2_801, 11)), [Rule::OneOwner]);
        assert_eq!(with(history, release(A, 2_800, 2_801, false)), [Rule::HoldsLast]);
        assert_eq!(with(history, release(A, 2_800, 2_801, true)), []);
    }
    assert_eq!(with(&longer, granted(B, 2_900, 2_901, 11)), []);
    assert_eq!(with(&longer, release(A, 3_050, 3_051, true)), [Rule::LeasesEnd]);
    assert_eq!(with(&endless, release(A, 9_000, 9_001, true)), []);
    assert_eq!(with(&endless, granted(B, 9_000, 9_001, 11)), [Rule::OneOwner]);

    // Its token stays, by EXTEND and by a renewal.
    let same = extend(A, 1_100, 1_101, Answer::Token(10));
    assert_eq!(with(&longer, same.clone()), []);
    assert_eq!(with(&first, same), [Rule::LeasesEnd]);
    let other = extend(A, 1_100, 1_101, Answer::Token(11));
    assert_eq!(with(&longer, other), [Rule::HoldsLast]);
    let unique = How { unique: true, ..PLAIN };
    let renewed = |token| acquire(A, unique, 1_100, 1_101, Answer::Token(token));
    let first = acquire(A, unique, 0, 1, Answer::Token(10));
    let longer = [first, lengthened(Some(2_000), 900, 990)];
    assert_eq!(with(&longer, renewed(10)), []);
    assert_eq!(with(&longer, renewed(11)), [Rule::OneOwner]);
    // The lease that the owner sets itself is the one that counts from then on.
    let shorter = [&longer[..], &[renewed(10)]].concat();
    assert_eq!(with(&shorter, granted(B, 2_050, 2_051, 11)), [Rule::OneOwner]);
    assert_eq!(with(&shorter, granted(B, 2_100, 2_101, 11)), []);
}

#[test]
fn what_a_server_loses_excuses_every_lock_but_one_that_was_written() {
    let lost = |but| Entry::Event(Event::Lost { but, from: 40 * MS, to: 50 * MS });
    let two = [granted(A, 0, 1, 10), granted(B, 60, 61, 11)];
    assert_eq!(with(&two, lost(None)), []);
    assert_eq!(with(&two, lost(Some(Lock(0, 2)))), []);
    assert_eq!(with(&two, lost(Some(LOCK))), [Rule::OneOwner]);
}

#[test]
fn only_a_connection_with_subscriptions_may_be_told_that_it_cannot_wait() {
    let error = "ERR BLOCK is not possible on this connection: it has subscriptions";
    let refused = |how| [acquire(A, how, 5, 6, Answer::Refused(error.to_owned()))];
    let subscribed =
        |client| Entry::Event(Event::Subscribed { connection: Connection(client, 1) });
    assert_eq!(broken(&refused(WAITS)), [Rule::NoErrors]);
    assert_eq!(with(&refused(WAITS), subscribed(1)), []);
    assert_eq!(with(&refused(WAITS), subscribed(2)), [Rule::NoErrors]);
    assert_eq!(with(&refused(PLAIN), subscribed(1)), [Rule::NoErrors]);
}

#[test]
fn every_call_is_answered_and_no_wait_is_cut_short() {
    assert_eq!(broken(&[acquire(A, PLAIN, 0, PATIENCE_MS - 100, Answer::Null)]), []);
    assert_eq!(
        broken(&[acquire(A, PLAIN, 0, PATIENCE_MS + 100, Answer::Null)]),
        [Rule::Answered]
    );
    assert_eq!(
        broken(&[acquire(A, WAITS, 0, PATIENCE_MS + 5_000, Answer::Silence)]),
        [Rule::Answered]
    );

    let how = How { block_ms: Some(100), ..PLAIN };
    assert_eq!(broken(&[acquire(A, how, 0, 100, Answer::Null)]), []);
    let early = [acquire(A, how, 0, 50, Answer::Null)];
    assert_eq!(broken(&early), [Rule::WaitsLast]);
    let unblocked =
        Event::Unblocked { connection: Connection(1, 1), from: 20 * MS, to: 20 * MS };
    assert_eq!(with(&early, Entry::Event(unblocked)), []);
}

#[test]
fn an_error_needs_a_cause() {
    let refused =
        |how, error: &str| acquire(A, how, 5, 6, Answer::Refused(error.to_owned()));
    let oom = [refused(PLAIN, "OOM command not allowed")];
    assert_eq!(broken(&oom), [Rule::NoErrors]);
    let refuses = |code: &str, from, to| {
        let codes = vec![code.to_owned()];
        Entry::Event(Event::Refuses { codes, from: from * MS, to: to * MS })
    };
    assert_eq!(with(&oom, refuses("OOM ", 0, 5)), []);
    assert_eq!(with(&oom, refuses("OOM ", 7, 9)), [Rule::NoErrors]);
    assert_eq!(with(&oom, refuses("MISCONF ", 0, 9)), [Rule::NoErrors]);
    let unique = How { unique: true, ..PLAIN };
    assert_eq!(broken(&[refused(unique, "DEADLOCK \"a\" -> \"a\"")]), []);
    assert_eq!(broken(&[refused(PLAIN, "DEADLOCK \"a\" -> \"a\"")]), [Rule::NoErrors]);
}

#[test]
fn inspect_shows_what_is() {
    let first = [granted(A, 0, 1, 10), release(A, 20, 21, true)];
    assert_eq!(with(&first, look(5, 6, (A, 10), &[])), []);
    assert_eq!(with(&first, look(5, 6, (B, 10), &[])), [Rule::Shown]);
    assert_eq!(with(&first, look(5, 6, (A, 11), &[])), [Rule::Shown]);
    assert_eq!(with(&first, look(22, 23, (A, 10), &[])), [Rule::Shown]);
    // It may be the grant whose answer was lost.
    let lost = acquire(B, PLAIN, 22, 23, Answer::Lost);
    assert_eq!(with(&[lost], look(24, 25, (B, 11), &[])), []);
}

#[test]
fn the_counters_add_up_and_nobody_is_left() {
    let law = [("acquired", 5), ("adopted", 1), ("releases", 4), ("expired", 1)];
    let with_held = |held, at_the_end| {
        let all = [&law[..], &[("locks_held", held)]].concat();
        broken(&[counted(at_the_end, &all)])
    };
    assert_eq!(with_held(1, false), []);
    assert_eq!(with_held(2, false), [Rule::CountersAddUp]);
    assert_eq!(with_held(1, true), [Rule::NobodyLeft]);
    let waiting = [("acquired", 1), ("releases", 1), ("clients_waiting", 1)];
    assert_eq!(broken(&[counted(false, &waiting)]), []);
    assert_eq!(broken(&[counted(true, &waiting)]), [Rule::NobodyLeft]);
    assert_eq!(broken(&[counted(false, &[("internal_errors", 1)])]), [Rule::ServerLives]);
}

#[test]
fn a_brief_lock_is_linearizable() {
    let brief = Lock(0, 5_000);
    let acquire = |owner: Owner, asked, heard, answer| {
        let how = How { lease_ms: 60_000, ..PLAIN };
        call(owner.0, asked, heard, Ask::Acquire { lock: brief, owner, how }, answer)
    };
    let release = |owner: Owner, asked, heard| {
        let ask = Ask::Release { lock: brief, owner, token: None };
        call(owner.0, asked, heard, ask, Answer::Released(true))
    };
    // Refused although nobody holds it: no other rule sees that.
    let history = |asked| {
        [
            acquire(A, 0, 1, Answer::Token(10)),
            release(A, 2, 3),
            acquire(B, asked, 5, Answer::Null),
        ]
    };
    assert_eq!(check(&history(1)).windows, 1);
    assert_eq!(broken(&history(1)), []);
    assert_eq!(broken(&history(4)), [Rule::Linearizable]);
    // Unless one who lost the answer may hold it.
    assert_eq!(with(&history(4), acquire(C, 3, 4, Answer::Lost)), []);
}
