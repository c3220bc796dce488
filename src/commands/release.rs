//! `GPULOCK.RELEASE`: gives a lock back, if the caller holds it.

use gpulock_core::release::Released;
use gpulock_core::{Fault, request};

use crate::server::call::Call;
use crate::server::commands::{Argument, Command, Keys, MAY_DELETE, REASON, Spec, TOKEN};
use crate::server::state::{now, with_keeper};
use crate::{broken, hand_off, look};

pub(crate) struct Release;

impl Command for Release {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.RELEASE",
        flags: c"write fast",
        acl: c"write fast",
        arity: -3,
        keys: Keys::First(MAY_DELETE),
        summary: c"Gives a lock back if the owner holds it: 1 when it did, else 0.",
        complexity: c"O(1)",
        tips: None,
        arguments: &[Argument::KEY, Argument::text(c"owner"), TOKEN, REASON],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        let name = call.lock()?;
        with_keeper(|keeper| keeper.may_write())?;
        let asked = request::Release::parse(call.arguments_from(1));
        let ask =
            asked.inspect_err(|_| with_keeper(|keeper| keeper.release_failed(name)))?;
        let client = call.client();
        let key = call.open()?;
        // With a token the hold itself is meant, and its lease tells it from a later one.
        let seen = match ask.token {
            Some(_) => look::shown(&key, name),
            None => key.look_for(ask.owner),
        };
        let ask = broken::release(ask, &seen);
        let released =
            with_keeper(|keeper| keeper.release(name, ask, &seen, client, now()))?;
        match released {
            Released::Freed(next) => {
                hand_off::pass_on_in_command(call.context(), key, next);
                call.reply().number(1);
            }
            Released::NotHeld => call.reply().number(0),
        }
        Ok(())
    }
}
