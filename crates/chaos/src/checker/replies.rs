//! Every call gets a reply in time, a wait lasts for the requested time, and errors have
//! a known cause.

use super::exemptions::Exemptions;
use super::{Rule, TOLERANCE, Violation};
use crate::client::REPLY_TIMEOUT_MS;
use crate::clock::MS;
use crate::history::{Call, Reply, Request};

pub(crate) fn check(
    calls: &[&Call],
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) {
    for call in calls {
        if let Some((rule, what)) = violation(call, exemptions) {
            let Call { connection, request, sent, received, reply } = call;
            let ms = (received - sent) / MS;
            violations.push(Violation {
                rule,
                at: *received,
                what: format!(
                    "{what}: {request:?} over {connection}, {reply:?} after {ms} ms"
                ),
            });
        }
    }
}

fn violation(call: &Call, exemptions: &Exemptions) -> Option<(Rule, &'static str)> {
    let block =
        call.request.options().and_then(|options| options.block_ms).map(|ms| ms * MS);
    let took = call.received - call.sent;
    if block.is_some() && exemptions.clock_stepped(call.sent, call.received) {
        return None;
    }
    match &call.reply {
        Reply::Timeout => Some((Rule::EveryCallReplied, "no reply")),
        Reply::Lost => None,
        _ if took > block.unwrap_or(0) + REPLY_TIMEOUT_MS * MS => {
            Some((Rule::EveryCallReplied, "reply too late"))
        }
        Reply::Null
            if block.is_some_and(|block| took + TOLERANCE < block)
                && !exemptions.unblocked(call.connection, call.sent, call.received) =>
        {
            Some((Rule::FullWait, "the wait was cut short"))
        }
        Reply::Error(error) if !is_expected(call, error, exemptions) => {
            Some((Rule::NoUnexpectedErrors, "unexpected error"))
        }
        _ => None,
    }
}

fn is_expected(call: &Call, error: &str, exemptions: &Exemptions) -> bool {
    let may_deadlock =
        matches!(&call.request, Request::Acquire { options, .. } if options.unique);
    let may_not_block =
        call.request.options().is_some_and(|options| options.block_ms.is_some())
            && exemptions.subscribed(call.connection);
    (may_deadlock && error.starts_with("DEADLOCK "))
        || (may_not_block && error.starts_with("ERR BLOCK is not possible"))
        || exemptions.expects_error(error, call.sent, call.received)
}
