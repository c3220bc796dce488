//! `GPULOCK.FORCERELEASE`: releases a lock regardless of its owner. For operators and monitoring
//! tools.

use gpulock_core::engine::commands;
use gpulock_core::{CommandError, request};

use crate::keyspace::ServerKeys;
use crate::manager::with_manager;
use crate::redis::call::Call;
use crate::redis::command_spec::{
    Argument, Command, Keys, MAY_DELETE, REASON, Spec, TOKEN,
};

pub(crate) struct ForceRelease;

impl Command for ForceRelease {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.FORCERELEASE",
        flags: c"write fast",
        acl: c"write fast dangerous",
        arity: -2,
        keys: Keys::First(MAY_DELETE),
        summary: c"Releases a lock regardless of its owner, at once or after a notice, and returns the owner.",
        complexity: c"O(1)",
        tips: None,
        arguments: &[
            Argument::KEY,
            Argument::text(c"owner").after(c"OWNER").optional(),
            TOKEN,
            Argument::integer(c"ms").after(c"AFTER").optional(),
            REASON,
        ],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let name = call.lock()?;
        with_manager(|manager| manager.may_write())?;
        let request = request::ForceRelease::parse(call.arguments_from(1))?;
        let (client, key) = (call.client(), call.open()?);
        let mut keys = ServerKeys::of_command(call);
        let owner = commands::force_release(&mut keys, key, name, request, client)?;
        call.reply().bytes_or_null(owner.as_deref());
        Ok(())
    }
}
