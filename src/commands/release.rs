//! `GPULOCK.RELEASE`: releases a lock, if the caller holds it.

use gpulock_core::engine::commands;
use gpulock_core::{CommandError, request};

use crate::keyspace::ServerKeys;
use crate::manager::with_manager;
use crate::redis::call::Call;
use crate::redis::command_spec::{
    Argument, Command, Keys, MAY_DELETE, REASON, Spec, TOKEN,
};

pub(crate) struct Release;

impl Command for Release {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.RELEASE",
        flags: c"write fast",
        acl: c"write fast",
        arity: -3,
        keys: Keys::First(MAY_DELETE),
        summary: c"Releases a lock if the owner holds it. Returns 1 if it was released, 0 otherwise.",
        complexity: c"O(1)",
        tips: None,
        arguments: &[Argument::KEY, Argument::text(c"owner"), TOKEN, REASON],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let name = call.lock()?;
        with_manager(|manager| manager.may_write())?;
        let parsed = request::Release::parse(call.arguments_from(1));
        let request = parsed.inspect_err(|_| {
            with_manager(|manager| manager.count_failed_release(name));
        })?;
        let client = call.client();
        with_manager(|manager| manager.look_ahead(name));
        let key = call.open()?;
        let mut keys = ServerKeys::of_command(call);
        let released = commands::release(&mut keys, key, name, request, client)?;
        call.reply().number(u64::from(released));
        Ok(())
    }
}
