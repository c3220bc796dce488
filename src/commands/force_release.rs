//! `GPULOCK.FORCERELEASE`: takes a lock from whoever holds it. For operators and watchdogs.

use gpulock_core::force_release::Forced;
use gpulock_core::{Fault, request};

use crate::server::call::Call;
use crate::server::commands::{Argument, Command, Keys, MAY_DELETE, REASON, Spec, TOKEN};
use crate::server::state::{now, with_keeper};
use crate::{hand_off, look};

pub(crate) struct ForceRelease;

impl Command for ForceRelease {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.FORCERELEASE",
        flags: c"write fast",
        acl: c"write fast dangerous",
        arity: -2,
        keys: Keys::First(MAY_DELETE),
        summary: c"Takes a lock from its holder and returns who that was.",
        complexity: c"O(1)",
        tips: None,
        arguments: &[
            Argument::KEY,
            Argument::text(c"owner").after(c"OWNER").optional(),
            TOKEN,
            REASON,
        ],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        let name = call.lock()?;
        with_keeper(|keeper| keeper.may_write())?;
        let ask = request::ForceRelease::parse(call.arguments_from(1))?;
        let client = call.client();
        let key = call.open()?;
        let seen = look::shown(&key, name);
        let forced =
            with_keeper(|keeper| keeper.force_release(name, ask, &seen, client, now()))?;
        match forced {
            Forced::Freed { owner, next } => {
                hand_off::pass_on_in_command(call.context(), key, next);
                call.reply().bytes(&owner);
            }
            Forced::NotTaken => call.reply().null(),
        }
        Ok(())
    }
}
