//! `GPULOCK.ACQUIRE`: takes a lock, waits in line for it, or renews the hold of a UNIQUE
//! owner.

use gpulock_core::acquire::{Acquired, Asker};
use gpulock_core::arena::Id;
use gpulock_core::deadlock::Circles;
use gpulock_core::wait::{Leaving, Waiting};
use gpulock_core::{Fault, request, slot};

use crate::look;
use crate::server::blocked;
use crate::server::call::Call;
use crate::server::commands::{Argument, Command, Keys, LEASE, MAY_WRITE, Spec};
use crate::server::state::{now, with_keeper};

pub(crate) struct Acquire;

impl Command for Acquire {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.ACQUIRE",
        flags: c"write fast blocking",
        acl: c"write fast blocking",
        arity: -3,
        keys: Keys::First(MAY_WRITE),
        summary: c"Takes a lock, waiting in line for it if asked to, and returns its fencing token.",
        complexity: c"O(1), and O(log N) with N the clients that wait",
        tips: None,
        arguments: &[
            Argument::KEY,
            Argument::text(c"owner"),
            LEASE,
            Argument::integer(c"milliseconds").after(c"BLOCK").optional(),
            Argument::word(c"unique", c"UNIQUE").optional(),
            Argument::block(
                c"session",
                &[
                    Argument::word(c"session", c"SESSION"),
                    Argument::integer(c"milliseconds").after(c"GRACE").optional(),
                ],
            )
            .optional(),
        ],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        with_keeper(|keeper| keeper.may_write())?;
        let name = call.lock()?;
        let asked = request::Acquire::parse(call.arguments_from(1));
        let ask = match asked {
            Ok(ask) => ask,
            Err(fault) => {
                with_keeper(|keeper| keeper.acquire_failed(name));
                return Err(fault);
            }
        };
        let asker = asker(call, &ask);
        let mut key = call.open()?;
        let seen = key.look();
        match with_keeper(|keeper| keeper.acquire(name, &ask, &seen, asker, now()))? {
            Acquired::Granted { token, until_ms } => {
                key.set(call.argument(1)?, until_ms);
                call.reply().number(token);
            }
            Acquired::Renewed { token, until_ms } => {
                key.expire(until_ms);
                call.reply().number(token);
            }
            Acquired::Contested { served } => {
                if let Some(handed) = served {
                    key.hand_over(&handed);
                }
                drop(key);
                match asker.client.filter(|_| asker.may_wait && ask.block_ms.is_some()) {
                    Some(client) => wait(call, &ask, client, asker.room)?,
                    None => call.reply().null(),
                }
            }
        }
        Ok(())
    }
}

/// Who asks. The server is asked only for what matters to the call: each answer takes it
/// some time, and nearly every call needs none.
fn asker(call: Call<'_>, ask: &request::Acquire<'_>) -> Asker {
    let may_be_full = with_keeper(|keeper| keeper.memory_is_limited());
    let is_plain = ask.block_ms.is_none() && ask.session_grace_ms.is_none();
    if is_plain && !may_be_full {
        return Asker { client: None, may_wait: false, room: true };
    }
    let flags = call.context().flags();
    Asker {
        client: call.client().filter(|_| !flags.in_script()),
        may_wait: !flags.denies_blocking(),
        room: !flags.is_out_of_memory(),
    }
}

/// How often a circle may turn out to be another one before the client is told to ask
/// again.
const LOOKS: usize = 8;

/// Lets the client wait in line.
fn wait(
    call: Call<'_>,
    ask: &request::Acquire<'_>,
    client: u64,
    room: bool,
) -> Result<(), Fault> {
    let name = call.lock()?;
    let mut circles = Circles::SureOf(Vec::new());
    for _ in 0..LOOKS {
        let waiting =
            with_keeper(|keeper| keeper.wait(name, ask, client, &circles, room, now()))?;
        match waiting {
            Waiting::Begun(ticket) => {
                if !blocked::block(call, ticket) {
                    let why = Leaving::UnblockedWithError;
                    with_keeper(|keeper| keeper.leave(ticket, why, now()));
                    call.reply().null();
                }
                return Ok(());
            }
            Waiting::LookFirst(locks) => circles = look_at(call, name.key, locks),
        }
    }
    Err(Fault::TryAgain)
}

/// Looks at the locks of a circle. In a cluster a command may touch its own slot only: a
/// circle through others cannot be made sure of.
fn look_at(call: Call<'_>, key: &[u8], locks: Vec<Id>) -> Circles {
    let context = call.context();
    let is_elsewhere = |id: &Id| {
        with_keeper(|keeper| {
            let lock = keeper.table().get(*id);
            lock.is_some_and(|lock| slot::tag(&lock.key) != slot::tag(key))
        })
    };
    if context.flags().in_cluster() && locks.iter().any(is_elsewhere) {
        return Circles::Unseen;
    }
    for id in &locks {
        look::at(context, *id);
    }
    Circles::SureOf(locks)
}
