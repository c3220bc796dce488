//! `GPULOCK.EXTEND`: renews the lease of a lock, if the caller holds it.

use gpulock_core::engine::commands;
use gpulock_core::{CommandError, request};

use crate::keyspace::ServerKeys;
use crate::manager::with_manager;
use crate::redis::call::Call;
use crate::redis::command_spec::{
    Argument, Command, Keys, LEASE, MAY_WRITE, Spec, TOKEN,
};

pub(crate) struct Extend;

impl Command for Extend {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.EXTEND",
        flags: c"write fast",
        acl: c"write fast",
        arity: -3,
        keys: Keys::First(MAY_WRITE),
        summary:
            c"Sets the lease of a lock, counted from now, if the owner holds the lock.",
        complexity: c"O(1)",
        tips: None,
        arguments: &[Argument::KEY, Argument::text(c"owner"), LEASE, TOKEN],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        let name = call.lock()?;
        with_manager(|manager| manager.may_write())?;
        let request = request::Extend::parse(call.arguments_from(1))?;
        with_manager(|manager| manager.look_ahead(name));
        let key = call.open()?;
        let mut keys = ServerKeys::of_command(call);
        let token = commands::extend(&mut keys, key, name, &request)?;
        call.reply().number_or_null(token);
        Ok(())
    }
}
