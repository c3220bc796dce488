//! Every command passes here: deferred work runs before and after it, and its effects are
//! delivered.

use crate::entry::deferred_work::run_deferred_around_command;
use crate::entry::delivery::deliver;
use crate::injected_panics::{IN_COMMAND, panic_at};
use crate::redis::call::Call;
use crate::redis::command_spec::{Command, Dispatch};

/// How the module dispatches commands.
pub(crate) struct Dispatcher;

impl Dispatch for Dispatcher {
    fn dispatch<C: Command>(call: Call<'_>) {
        let context = call.context();
        let has_time = run_deferred_around_command(context);
        if let Some(key) = call.arguments_from(0).next() {
            panic_at(IN_COMMAND, key);
        }
        if let Err(error) = C::run(call) {
            call.reply().error(error);
        }
        if has_time {
            run_deferred_around_command(context);
        }
        deliver(context);
    }
}
