//! Every call is answered: in time, a wait not before its time, and with an error only where
//! something explains it.

use super::excuses::Excuses;
use super::{Rule, TOLERANCE, Violation};
use crate::client::PATIENCE_MS;
use crate::clock::MS;
use crate::history::{Answer, Ask, Call};

pub(crate) fn check(calls: &[&Call], excuses: &Excuses, violations: &mut Vec<Violation>) {
    for call in calls {
        if let Some((rule, what)) = complaint(call, excuses) {
            let Call { connection, ask, asked, heard, answer } = call;
            let ms = (heard - asked) / MS;
            violations.push(Violation {
                rule,
                at: *heard,
                what: format!(
                    "{what}: {ask:?} over {connection}, {answer:?} after {ms} ms"
                ),
            });
        }
    }
}

fn complaint(call: &Call, excuses: &Excuses) -> Option<(Rule, &'static str)> {
    let block = call.ask.how().and_then(|how| how.block_ms).map(|ms| ms * MS);
    let took = call.heard - call.asked;
    if block.is_some() && excuses.stepped(call.asked, call.heard) {
        return None;
    }
    match &call.answer {
        Answer::Silence => Some((Rule::Answered, "no answer")),
        Answer::Lost => None,
        _ if took > block.unwrap_or(0) + PATIENCE_MS * MS => {
            Some((Rule::Answered, "answered too late"))
        }
        Answer::Null
            if block.is_some_and(|block| took + TOLERANCE < block)
                && !excuses.unblocked(call.connection, call.asked, call.heard) =>
        {
            Some((Rule::WaitsLast, "the wait was cut short"))
        }
        Answer::Refused(error) if !is_expected(call, error, excuses) => {
            Some((Rule::NoErrors, "an error"))
        }
        _ => None,
    }
}

fn is_expected(call: &Call, error: &str, excuses: &Excuses) -> bool {
    let may_deadlock = matches!(&call.ask, Ask::Acquire { how, .. } if how.unique);
    let may_not_block = call.ask.how().is_some_and(|how| how.block_ms.is_some())
        && excuses.subscribed(call.connection);
    (may_deadlock && error.starts_with("DEADLOCK "))
        || (may_not_block && error.starts_with("ERR BLOCK is not possible"))
        || excuses.refuses(error, call.asked, call.heard)
}
