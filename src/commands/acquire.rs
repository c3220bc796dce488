//! `GPULOCK.ACQUIRE`: acquires a lock, waits for it, or renews the hold of a UNIQUE owner.

use gpulock_core::engine::commands::{self, Outcome};
use gpulock_core::{CommandError, request};

use super::wait::{block, caller_context};
use crate::keyspace::ServerKeys;
use crate::manager::with_manager;
use crate::redis::call::Call;
use crate::redis::command_spec::{
    Argument, BLOCK, Command, Keys, LEASE, MAY_WRITE, PRIORITY, SESSION, SHARE, Spec,
    UNIQUE,
};

pub(crate) struct Acquire;

impl Command for Acquire {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.ACQUIRE",
        flags: c"write fast blocking",
        acl: c"write fast blocking",
        arity: -3,
        keys: Keys::First(MAY_WRITE),
        summary: c"Acquires a lock and returns its fencing token. Waits in the queue of the lock if BLOCK is given.",
        complexity: c"O(1), or O(log N) if the call waits, where N is the number of waiting clients.",
        tips: None,
        arguments: &[
            Argument::KEY,
            Argument::text(c"owner"),
            LEASE,
            BLOCK,
            UNIQUE,
            SESSION,
            PRIORITY,
            SHARE,
        ],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        with_manager(|manager| manager.may_write())?;
        let name = call.lock()?;
        let parsed = request::Acquire::parse(call.arguments_from(1));
        let request = parsed.inspect_err(|_| {
            with_manager(|manager| manager.count_failed_acquire(name));
        })?;
        let caller = caller_context(call, &request);
        let key = call.open()?;
        let mut keys = ServerKeys::of_command(call);
        match commands::acquire(&mut keys, key, name, &request, caller)? {
            Outcome::Granted(token) => call.reply().number(token),
            Outcome::Refused => call.reply().null(),
            Outcome::Waits(ticket) => block(call, ticket)?,
        }
        Ok(())
    }
}
